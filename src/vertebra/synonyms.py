"""What users of other libraries type, and what it is called here: data alone.

Names of Ultralytics, timm, Detectron2, MMDetection, torchvision's reference scripts, Roboflow and Keras, without their
leading dashes, in lower case, with `_` for `-`. Each table has the name that is used here, then theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

VERBS = {
    "evaluate": "val validate validation test eval benchmark score metrics",
    "train": "fit finetune fine_tune training learn run",
    "predict": "infer inference detect classify segment track demo pred",
    "label": "annotate autolabel auto_label pseudo_label pseudolabel teacher distill",
    "serve": "server api http rest run_server inference_server",
    "explain": "gradcam grad_cam cam interpret attribute attribution heatmap explainability captum",
    "refine": "bpr refinement postprocess sharpen refine_masks",
    "export": "to_onnx onnx openvino deploy save_onnx compile",
    "tune": "autotune optimize profile speed engines",
    "models": "list list_models ls model backbones zoo timm weights",
    "methods": "tasks heads algorithms detectors",
    "recipes": "recipe presets preset schedules",
    "data": "datasets dataset inspect browse_dataset analyze convert",
    "verify": "check checks doctor selftest",
}
"""Commands."""
TASKS = {
    "classification": "cls classify classifier image_classification multiclass",
    "multilabel": "multi_label tags tagging tagger attributes multilabel_classification multi_label_classification",
    "detection": "detect det detector object_detection bbox boxes od yolo",
    "instance": "segment seg instance_segmentation insseg mask masks segm",
    "keypoints": "keypoint kpt kpts keypoint_detection bottom_up",
    "pose": "pose_estimation poses skeleton landmarks landmark top_down topdown hrnet vitpose face facial_landmarks",
    "semantic": "segmentation semseg semantic_segmentation",
    "saliency": "salient sod salient_object_detection",
    "refinement": "refine refiner bpr boundary_refinement mask_refinement patch_refinement",
    "text_classification": "text_classifier sentiment sequence_classification document_classification nlp babi qa",
    "captioning": "caption captions captioner image_captioning image_to_text show_attend_and_tell",
    "translation": "translate translator nmt mt seq2seq text",
}
"""Tasks."""
MISSING_TASKS = {
    "boxes that are rotated": "obb oriented rotated",
    "panoptic segmentation": "panoptic panoptic_segmentation",
    "tracking": "track tracking mot",
    "depth estimation": "depth depth_estimation",
}
"""Tasks that have no counterpart, in words."""

_READING = {
    "device": "gpu gpus gpu_id gpu_ids accelerator cuda local_rank",
    "data.batch_size": "batch batch_size b bs samples_per_gpu ims_per_batch",
    "data.workers": "workers j num_workers workers_per_gpu nw",
    "data.val_share": "val_split val_fraction validation_split fraction split_ratio",
    "data.path": "data dataset data_dir data_path dataset_dir train_dir root",
}
OPTIONS: Mapping[str, Mapping[str, str]] = {
    "train": {
        **_READING,
        "data.image_size": "imgsz img_size image_size img size input_size crop_size train_crop_size resolution",
        "data.channels": "in_chans in_channels channels grayscale greyscale",
        "data.resize": "rect letterbox keep_ratio resize_mode crop_mode",
        "output": "name project output_dir work_dir save_dir out o experiment log_dir logdir save",
        "lr": "lr0 learning_rate base_lr solver.base_lr blr",
        "final_lr_ratio": "lrf min_lr eta_min lr_min lr_end final_lr",
        "optimizer": "opt optim optimiser",
        "schedule": "sched lr_scheduler cos_lr lr_schedule lr_policy lr_config",
        "step_epochs": "lr_steps lr_step_size decay_epochs decay_milestones milestones",
        "step_gamma": "gamma lr_gamma decay_rate",
        "nesterov": "use_nesterov",
        "weight_decay": "wd decay",
        "warmup": "warmup_epochs lr_warmup_epochs",
        "warmup_steps": "warmup_iters warmup_iterations warmup_updates",
        "ema": "model_ema model_ema_decay ema_decay",
        "precision": "amp half fp16 bf16 use_amp mixed_precision dtype",
        "clip": "clip_grad clip_grad_norm grad_clip gradient_clip_val max_norm",
        "accumulate": "grad_accum_steps accumulate_grad_batches nbs gradient_accumulation_steps",
        "checkpointing": "grad_checkpointing gradient_checkpointing with_cp",
        "freeze": "freeze_backbone freeze_at frozen_stages freeze_layers",
        "unfreeze_every": "gradual_unfreezing unfreeze",
        "layer_decay": "layer_lr_decay llrd layerwise_decay",
        "epochs": "epoch num_epochs max_epochs n_epochs total_epochs max_iter steps",
        "patience": "early_stopping early_stop early_stopping_patience",
        "val_every": "val_interval eval_interval check_val_every_n_epoch val_period",
        "weights": "pretrained checkpoint initial_checkpoint load_from model.weights ckpt load finetune",
        "teacher": "teacher_model teacher_path teacher_checkpoint kd_model",
        "distill.loss": "distillation_type kd distillation",
        "distill.weight": "distillation_alpha kd_loss_weight alpha_kd",
        "distill.temperature": "distillation_tau tau kd_temperature",
        "config": "cfg config_file hyp c cfg_file config_path experiment_file",
        "model.backbone": "model arch backbone model_name encoder a",
        "model.method": "method detector algorithm head",
        "model.drop_path": "drop_path drop_path_rate stochastic_depth",
        "model.norm": "norm norm_layer sync_bn syncbn sync_batchnorm",
        "model.dropout": "drop dropout drop_rate",
        "model.label_smoothing": "smoothing label_smoothing",
        "model.class_weights": "class_weights cls_pw weight",
        "model.score_threshold": "conf conf_thres score_thr score_threshold",
        "model.nms_threshold": "iou iou_thres nms_thr nms_threshold nms",
        "model.max_detections": "max_det max_per_img detections_per_image",
        "model.box_loss.name": "iou_loss box_loss bbox_loss",
        "model.anchors.scale": "anchor_scale anchor_sizes",
        "model.anchors.ratios": "aspect_ratios anchor_ratios",
        "augment.flip": "fliplr hflip hflip_prob horizontal_flip",
        "augment.flip_vertical": "flipud vflip vertical_flip",
        "augment.rotate": "degrees rotation",
        "augment.colour": "hsv_h hsv_s hsv_v color_jitter colour color augment.color",
        "augment.randaugment": "aa auto_augment autoaugment rand_augment randaugment",
        "augment.erase": "reprob erasing random_erase",
        "augment.mixup": "mixup mixup_alpha",
        "augment.cutmix": "cutmix cutmix_alpha",
        "augment.mosaic": "mosaic mosaic_prob",
        "augment.copy_paste": "copy_paste",
        "augment.jitter": "lsj large_scale_jitter",
        "augment.scales": "scale multi_scale scales",
        "processes": "devices num_gpus nproc nproc_per_node world_size num_processes",
        "seed": "deterministic random_seed random_state",
        "resume": "auto_resume resume_from continue",
        "balance": "class_balance balanced balanced_sampling",
    },
    "evaluate": {
        **_READING,
        "save": "project output output_dir work_dir save_dir name out o",
        "max_detections": "max_det max_per_img maxdets",
        "data.split": "split",
        "data.seed": "seed",
    },
    "predict": {
        "device": "gpu gpus gpu_id gpu_ids accelerator cuda local_rank",
        "save": "project output output_dir work_dir save_dir name out o",
        "threshold": "conf conf_thres confidence confidence_threshold score_thr score_threshold thr",
        "batch_size": "batch b bs",
        "tta": "augment flip_test test_time_augmentation",
        "every": "vid_stride frame_stride stride skip_frames",
        "tile": "slice_size slice sahi tile_size tiles slice_height slice_width",
        "overlap": "overlap_ratio overlap_height_ratio overlap_width_ratio",
        "precision": "half fp16 bf16 amp dtype",
        "top": "topk top_k",
        "embeddings": "features embed embedding",
    },
    "label": {
        "device": "gpu gpus gpu_id gpu_ids accelerator cuda local_rank",
        "save": "project output output_dir work_dir save_dir name out o",
        "threshold": "conf conf_thres confidence confidence_threshold score_thr score_threshold thr",
        "batch_size": "batch b bs",
        "tta": "augment flip_test test_time_augmentation",
        "precision": "half fp16 bf16 amp dtype",
    },
    "serve": {
        "device": "gpu gpus gpu_id gpu_ids accelerator cuda local_rank",
        "host": "address bind ip hostname",
        "port": "http_port p",
        "precision": "half fp16 bf16 amp dtype",
        "max_batch": "batch batch_size max_batch_size preferred_batch_size",
        "latency_ms": "batch_timeout max_batch_delay max_queue_delay_microseconds batch_wait_timeout_s max_latency_ms",
        "max_body_mb": "max_request_size max_payload_size",
        "max_in_flight": "limit_concurrency max_concurrency max_queue_size concurrency max_ongoing_requests",
        "timeout": "response_timeout request_timeout",
        "token": "api_key api_keys auth",
    },
    "explain": {
        "device": "gpu gpus gpu_id gpu_ids accelerator cuda local_rank",
        "save": "project output output_dir out_dir work_dir save_dir name out o",
        "techniques": "method methods technique algorithm",
        "classes": "class target target_class category label",
        "level": "layer target_layer target_layers layer_name",
        "top": "topk top_k",
    },
    "refine": {
        "device": "gpu gpus gpu_id gpu_ids accelerator cuda local_rank",
        "data.path": "data dataset data_dir data_path dataset_dir img_dir images root",
        "data.split": "split",
        "model": "weights checkpoint ckpt refiner refine",
        "save": "project output output_dir out_dir work_dir save_dir name out o",
        "batch_size": "batch b bs",
        "nms_threshold": "iou_thresh iou_thres iou nms_thr nms",
        "patch_size": "patch size",
        "max_detections": "max_det max_per_img maxdets",
    },
    "models": {
        "weights": "pretrained checkpoints",
        "sort": "order sort_by",
    },
    "methods": {},
    "recipes": {},
    "data": {
        "save": "output output_dir out o dst",
        "val_share": "val_split val_fraction",
    },
    "data convert": {
        "save": "output output_dir out o dst",
        "to": "format f target out_format",
    },
    "verify": {
        "reference": "refs ref",
    },
}
"""Options of each command."""
ARGUMENTS: Mapping[str, Mapping[str, str]] = {
    "predict": {
        "after the checkpoint: vertebra predict RUN IMAGES": "source input images img image",
        "first: vertebra predict RUN IMAGES": "weights model checkpoint ckpt model.weights",
    },
    "explain": {
        "after the checkpoint: vertebra explain RUN IMAGES": "source input images img image image_path",
        "first: vertebra explain RUN IMAGES": "weights model checkpoint ckpt",
    },
    "evaluate": {
        "first: vertebra evaluate RUN": "weights model checkpoint ckpt model.weights",
    },
    "serve": {
        "first: vertebra serve RUN": "weights model checkpoint ckpt model.weights",
    },
    "refine": {
        "first: vertebra refine RESULTS": "results predictions coarse input json",
    },
    "data": {
        "first: vertebra data PATH": "path data source dataset",
    },
    "data convert": {
        "first: vertebra data convert PATH": "path data source dataset input",
    },
}
"""Options that are arguments here: where they stand."""
REMARKS: Mapping[str, Mapping[str, str]] = {
    "train": {
        "the data says how many classes there are": "num_classes nc n_classes",
        "reading needs no option for it": "cache persistent_workers pin_memory",
        "each option is a flag of its own, such as --data.batch_size=8": "cfg_options opts options",
        "a run folder is not written over: choose another --output": "exist_ok overwrite",
        "the val split is always evaluated, see --val_every": "val no_val noval",
    },
    "predict": {
        "NMS is decided in training, by --model.nms_threshold and --model.max_detections": (
            "iou iou_thres nms_thr max_det nms"
        ),
        "the checkpoint decides the input size": "imgsz img_size image_size img size",
        "NMS is always within each class": "agnostic_nms class_agnostic",
    },
    "evaluate": {
        "the checkpoint decides the input size": "imgsz img_size image_size img size",
        "average precision is over all scores and over IoU 0.5 to 0.95": "conf iou conf_thres iou_thres",
        "evaluation computes in 32 bits": "half fp16 amp precision",
    },
}
"""Options that have no counterpart, and why."""


def find(table: Mapping[str, str], name: str) -> str:
    """What a table calls the thing that others call `name`; empty if it has no such name."""
    word = _word(name)
    return next((here for here, names in table.items() if word in names.split()), "")


def option_hint(command: str, name: str, known: Collection[str]) -> str:
    """What an option of other libraries is called here, as a sentence after a space; empty if no table has it.

    Args:
        command: such as `train`, of which OPTIONS has a table.
        name: the option; with dashes, its name here has them too.
        known: the options that the command has for the task at hand.
    """
    dashes = "--" * name.startswith("-")
    group, _, last = _word(name).rpartition(".")
    foreign = not any(option.startswith(f"{group.partition('.')[0]}.") for option in known)  # as in SOLVER.BASE_LR
    for candidate in (_word(name), last) if foreign else (_word(name),):
        table = OPTIONS.get(command, {})
        here = candidate if candidate in {*known, *table} else find(table, candidate)
        if here in known:
            return f" Here it is {dashes}{here}."
        if here:
            return f" There is no {dashes}{here} for this task."
        if place := find(ARGUMENTS.get(command, {}), candidate):
            return f" It stands {place}."
        if remark := find(REMARKS.get(command, {}), candidate):
            return f" There is none: {remark}."
    return ""


def task_hint(name: str) -> str:
    """What a task of other libraries is called here, as `option_hint` does."""
    if here := find(TASKS, name):
        return f" Here it is {here!r}."
    missing = find(MISSING_TASKS, name)
    return f" There is no task for {missing} yet." if missing else ""


def _word(name: str) -> str:
    return name.lstrip("-").replace("-", "_").lower()
