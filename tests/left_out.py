"""Cases that run with `pytest --all` alone, by test: like each of them others stay, which take the same code."""

VARIANTS = {
    *("resnet50_d", "se_resnext50_32x4d", "tf_efficientnetv2_b0", "efficientnetv2_rw_t", "res2net50_48w2s"),
    *("res2next50", "se_res2net50", "dla102", "res2net_dla60", "blres2net50", "vit_base_32", "hrnet_w18_small_v2"),
    "vip_medium_7",
}
"""Backbones of families of which another stays."""

SAMPLED = {
    "tests/tasks/test_padding.py::test_an_image_alone_and_among_others": 3,  # norms
    "tests/ledger/test_check.py::test_larger_references_have_our_names_and_shapes": 3,
    "tests/weights/test_paddle.py::test_every_tensor_of_the_published_models_has_its_place": 3,
    "tests/weights/test_published.py::test_torchvisions_detectors_are_those_that_methods_read": 2,
    "tests/tasks/test_timm_methods.py::test_every_method": 3,
    "tests/backbones/test_timm.py::test_the_numbers_are_timms": 2,
    "tests/backbones/test_contract.py::test_any_size": 2,
    "tests/necks/test_necks.py::test_every_plain_backbone_gets_a_pyramid": 2,
    "tests/ledger/test_check.py::test_shipped_references": 2,
    "tests/backbones/test_learning.py::test_it_learns_the_shapes": 2,
    "tests/tasks/test_plan.py::test_a_method_is_described": 2,
    "tests/backbones/test_contract.py::test_features_as_declared": 2,
    "tests/backbones/test_contract.py::test_a_detector_has_no_embedding_layer": 3,
    "tests/cli/test_instances.py::test_a_run_folder_is_complete": 2,
    "tests/parity/test_pose.py::test_names_of_simple_baseline": 2,
    "tests/tasks/test_detectors.py::test_checkpoints_come_back_whole": 2,
    "tests/tasks/test_detectors.py::test_two_thousand_objects_in_one_image": 2,
}
"""Tests of which every n-th case stays, and n."""

LEFT_OUT = {
    # with the same kinds of layers, or larger
    "tests/backbones/test_contract.py::test_exports_without_a_graph_break": {
        *("hrnet_w18_small_v1", "blresnet50", "dla102", "res2next50", "efficientnetv2_b0", "vip_small_7"),
        *("asmlp_mobile", "gmlp_ti16", "resmlp_12", "s2mlp_deep", "resnet18", "cyclemlp_b1"),
    },
    "tests/backbones/test_contract.py::test_multiply_adds_on_meta": VARIANTS
    | {
        *("asmlp_base", "cyclemlp_b5", "deit_base_16_distilled_384", "dla60", "hrnet_w64", "mixer_l16"),
        *("res2net200_vd", "res2next_dla60", "resnext101_32x48d", "resnext101_32x8d", "swin_large_384"),
        *("vit_base_16", "vit_large_16_384"),
    },
    "tests/backbones/test_contract.py::test_folding_changes_nothing_but_speed": VARIANTS,
    "tests/backbones/test_contract.py::test_drop_path_rises_linearly_and_rests_in_eval": VARIANTS,
    "tests/backbones/test_contract.py::"
    "test_every_parameter_is_used_and_checkpointing_gives_the_same_gradients_and_statistics": VARIANTS,
    "tests/backbones/test_dcn.py::test_exported": {
        *("res2net50_26w4s-options3", "resnext50_32x4d-options2", "resnet50-options1"),
    },
    "tests/backbones/test_dcn.py::test_every_form_of_a_network_computes_the_same": {
        *("resnext50_32x4d-options2", "resnet50-options1"),
    },
    "tests/backbones/test_learning.py::test_it_learns_the_shapes": {
        *("hrnet_w18_small_v1-{'view': 'increased', 'u-0.5", "swin_tiny-{'width': 48, 'heads': (-0.9_1"),
        *("blresnet50-{'depths': (3, 2, 2, 1)}-0.5", "vit_tiny_16-{'depth': 4, 'pool': 'me-0.9"),
        *("deit_tiny_16_distilled-{'depth': 4}-0.9", "s2mlp_deep-{'depth': 4, 'width': 19-0.9"),
    },
    "tests/backbones/test_timm.py::test_contract": {
        *("swin_tiny_patch4_window7_224", "vit_tiny_patch16_224", "mambaout_femto", "regnetx_002"),
        *("convnext_atto", "coatnet_pico_rw_224", "mobilenetv4_conv_small_035", "xcit_nano_12_p16_224"),
    },
    "tests/attention/test_mechanisms.py::test_export": {
        *("additive", "bilinear", "concat", "cosine", "dot", "gaussian", "causal_additive", "multi_head_additive"),
        "sliding_gaussian",
    },
    "tests/attention/test_forms.py::test_export": {"local-m", "hard", "coupled"},
    # with parts of other methods
    "tests/tasks/test_export.py::test_the_exported_program_computes_what_the_model_does": {
        *("detection-faster_rcnn", "detection-cascade_rcnn", "instance-mask_rcnn_c4", "detection-reppoints"),
        *("saliency-upernet", "saliency-ocr", "saliency-semantic_fpn", "saliency-deeplabv3plus", "saliency-deeplabv3"),
        *("saliency-fcn", "semantic-deeplabv3", "semantic-fcn", "semantic-semantic_fpn", "semantic-hrnetv2"),
        *("multilabel-linear", "pose-hrnetv2", "text_classification-structured", "instance-mask_rcnn"),
        *("detection-faster_rcnn_c4", "captioning-hard_attention", "semantic-ocr", "text_classification-hierarchical"),
        *("keypoints-keypoint_rcnn", "detection-retinanet"),
    },
    "tests/tasks/test_detectors.py::test_half_precision_and_recomputed_activations_change_little": {
        *("instance-mask_rcnn_c4", "detection-faster_rcnn_c4", "detection-reppoints", "detection-cascade_rcnn"),
        *("detection-faster_rcnn", "detection-retinanet", "detection-atss", "instance-mask_rcnn"),
    },
    "tests/cli/test_instances.py::test_every_method_trains": {
        *("instance-mask_rcnn_c4-more4", "detection-cascade_rcnn-more1", "instance-mask_rcnn-more5"),
        "detection-retinanet-more2",
    },
    "tests/tasks/test_detectors.py::test_the_loss_is_finite_where_there_is_nothing_to_learn": {
        *("instance-mask_rcnn_c4", "detection-cascade_rcnn", "detection-faster_rcnn_c4", "detection-faster_rcnn"),
        *("instance-mask_rcnn", "detection-reppoints"),
    },
    "tests/engine/test_failures.py::test_a_process_that_the_command_started_is_killed": {""},
    "tests/cli/test_instances.py::test_other_formats_train": {"detection-voc"},
    # with other random numbers
    "tests/kinds/test_tiles.py::test_many_at_random_places": {
        *("1-0.05", "1-0.3", "1-0.5", "2-0.05", "2-0.3", "2-0.5"),
    },
    # of other kinds of answers
    "tests/cli/test_instances.py::test_a_run_that_broke_off_resumes_to_the_same_weights": {"detection", "keypoints"},
    "tests/cli/test_instances.py::test_images_without_objects_and_with_hundreds_in_grey_and_in_sixteen_bits": {
        *("detection", "keypoints"),
    },
    "tests/engine/test_finders.py::test_every_task_is_left_as_it_was": {"detection", "keypoints", "instance"},
    "tests/metrics/test_coco_metrics.py::test_agrees_with_pycocotools": {"train-mask", "train-box"},
    "tests/cli/test_instances.py::test_two_processes_give_the_metrics_of_one": {""},
    "tests/engine/test_multi_training.py::test_two_processes_give_the_metrics_of_one": {""},
    "tests/heads/test_rules.py::test_mmdet": {"c4-detection-expected3"},
    # of sources whose other models are compared
    "tests/ledger/test_check.py::test_official_reference": {
        *("timm_deit_small_distilled_patch16_224", "timm_dla60", "timm_dla60_res2net", "timm_efficientnetv2_rw_s"),
        *("timm_hrnet_w18_small_v2", "timm_mixer_b16_224", "timm_res2net50_26w_4s", "timm_res2next50"),
        *("timm_resmlp_12_224", "timm_resnet18", "timm_resnet50", "timm_resnet50d", "timm_resnext50_32x4d"),
        *("timm_seresnet50", "timm_swin_tiny_patch4_window7_224", "timm_tf_efficientnetv2_s", "tv_efficientnet_v2_s"),
        *("wzm_swin_tiny_patch4_window7_224", "wzm_vit_base_patch16_224", "tv_vit_b_16", "tv_swin_t", "cyclemlp_b1"),
        *("asmlp_tiny_det_backbone", "res2net_official_res2net_dla60", "tv_resnet50", "timm_resnet18_eps"),
        *("hf_swin_tiny_patch4_window7_224", "wzm_efficientnetv2_s", "hf_vit_base_patch16_224"),
    },
    "tests/ledger/test_check.py::test_shipped_references": {
        *("timm_res2net50_26w_6s", "timm_res2net50_26w_8s", "timm_efficientnetv2_rw_m", "timm_resnext50_32x4d"),
        *("timm_resnet50", "timm_res2net50d", "timm_res2net50_14w_8s", "timm_res2net50_48w_2s", "timm_seresnet50"),
        *("timm_resnet50d", "timm_dla102", "timm_dla60", "timm_dla60_res2net", "timm_efficientnetv2_rw_s"),
        *("timm_tf_efficientnetv2_s", "timm_tf_efficientnetv2_b2", "timm_tf_efficientnetv2_b3", "timm_hrnet_w18"),
        "timm_vit_small_patch32_224",
    },
    "tests/parity/test_originals.py::test_original": {
        *("detectron2-mask_rcnn_c4", "mmdet-faster_rcnn_c4", "mmdet-hrnet", "detectron2-faster_rcnn_rgb"),
        *("mmdet-res2net_mdconv", "detectron2-mask_rcnn_dconv", "mmdet-mask_rcnn_dconv", "mmdet-mask_rcnn_gn"),
        *("detectron2-faster_rcnn_c4", "detectron2-resnext", "mmdet-cascade_rcnn_dconv", "mmdet-mask_rcnn_caffe"),
        *("detectron2-mask_rcnn", "detectron2-cascade_mask_rcnn", "mmdet-sparse_rcnn_gn", "mmdet-atss_plain"),
        *("mmdet-reppoints_gn", "detectron2-retinanet_mdconv", "mmdet-reppoints", "detectron2-faster_rcnn"),
    },
    "tests/parity/test_originals.py::test_deformable_convolutions_are_read_off_the_file": {
        *("mmdet-mask_rcnn_dconv-mask_rcnn-False-1-False", "mmdet-cascade_rcnn_dconv-cascade_rcnn-False-1-False"),
    },
    "tests/parity/test_references.py::test_official_references": {
        *("tv_fasterrcnn_resnet50_fpn", "tv_maskrcnn_resnet50_fpn"),
    },
    "tests/parity/test_references.py::test_keypoint_rcnn": {""},
    "tests/attention/test_dynamic_memory.py::test_two_passes_answer_what_one_cannot": {""},
    "tests/parity/test_segmenters.py::test_official_references": {
        *("hrnet_seg_w18_cityscapes", "hf_upernet_swin_tiny", "tv_fcn_resnet50"),
    },
    "tests/parity/test_segmenters.py::test_torchvision": {"fcn_resnet50-fcn"},
    "tests/parity/test_segmenters.py::test_the_number_of_classes_decides_how_hrnetv2_aligns": {"171-True"},
    "tests/parity/test_pose.py::test_names_of_hrnet": {"48-official"},
    "tests/engine/test_distill.py::test_a_resumed_run_is_the_undisturbed_one": {"features-more1"},
    "tests/serve/test_serve_command.py::test_any_engine_serves": {""},
    "tests/parity/test_torchvision_parity.py::test_mask_rcnn": {"maskrcnn_resnet50_fpn"},
    "tests/parity/test_torchvision_parity.py::test_keypoint_rcnn": {""},
    "tests/parity/test_torchvision_parity.py::test_retinanet": {"-pyramid"},
    "tests/parity/test_bpr.py::test_w48_by_the_same_rules": {""},
    "tests/heads/test_rules.py::test_mmdet_hrnet": {""},
    "tests/heads/test_rules.py::test_detectron2": {"cascade-instance-expected2"},
    "tests/parity/test_torchvision_parity.py::test_faster_rcnn_v2": {""},
}
