"""MLflow: the server in MLFLOW_TRACKING_URI, or else the database mlflow.db beside the run folder."""

import os
from pathlib import Path

from lightning.pytorch.loggers import Logger, MLFlowLogger

PACKAGE = "mlflow"


def create(folder: Path, project: str) -> Logger:
    address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.absolute().parent / 'mlflow.db'}"
    return MLFlowLogger(experiment_name=project, run_name=folder.name, tracking_uri=address)
