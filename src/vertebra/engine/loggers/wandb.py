"""Weights & Biases; with WANDB_MODE=offline in the run folder's wandb/ alone."""

from pathlib import Path

from lightning.pytorch.loggers import Logger, WandbLogger

PACKAGE = "wandb"


class FinishingWandbLogger(WandbLogger):
    """Ends the run on Weights & Biases with the training, so that a further one in this process is another."""

    def finalize(self, status: str) -> None:
        import wandb

        super().finalize(status)
        wandb.finish(exit_code=0 if status == "success" else 1)


def create(folder: Path, project: str) -> Logger:
    latest = folder / "wandb" / "latest-run"  # run-DATE_TIME-ID, of a run that is resumed
    run_id = latest.resolve().name.rpartition("-")[2] if latest.exists() else None
    return FinishingWandbLogger(name=folder.name, project=project, save_dir=str(folder), id=run_id, resume="allow")
