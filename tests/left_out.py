"""Cases that run with `pytest --all` alone, by test: like each of them others stay, which take the same code."""

LEFT_OUT = {
    # with the same kinds of layers, or larger
    "tests/backbones/test_contract.py::test_exports_without_a_graph_break": {
        *("hrnet_w18_small_v1", "blresnet50", "dla102", "res2next50", "efficientnetv2_b0", "vip_small_7"),
        "asmlp_mobile",
    },
    "tests/backbones/test_dcn.py::test_exported": {
        *("res2net50_26w4s-options3", "resnext50_32x4d-options2", "resnet50-options1"),
    },
    "tests/backbones/test_dcn.py::test_every_form_of_a_network_computes_the_same": {
        *("resnext50_32x4d-options2", "resnet50-options1"),
    },
    "tests/backbones/test_learning.py::test_it_learns_the_shapes": {
        *("hrnet_w18_small_v1-{'view': 'increased', 'u-0.5", "swin_tiny-{'width': 48, 'heads': (-0.9_1"),
    },
    "tests/backbones/test_timm.py::test_contract": {
        *("swin_tiny_patch4_window7_224", "vit_tiny_patch16_224", "mambaout_femto", "regnetx_002"),
    },
    # with parts of other methods
    "tests/tasks/test_export.py::test_the_exported_program_computes_what_the_model_does": {
        *("detection-faster_rcnn", "detection-cascade_rcnn", "instance-mask_rcnn_c4", "detection-reppoints"),
        *("saliency-upernet", "saliency-ocr", "saliency-semantic_fpn", "saliency-deeplabv3plus", "saliency-deeplabv3"),
        *("saliency-fcn", "semantic-deeplabv3"),
    },
    "tests/tasks/test_detectors.py::test_half_precision_and_recomputed_activations_change_little": {
        *("instance-mask_rcnn_c4", "detection-faster_rcnn_c4", "detection-reppoints", "detection-cascade_rcnn"),
        *("detection-faster_rcnn", "detection-retinanet"),
    },
    "tests/cli/test_instances.py::test_every_method_trains": {
        *("instance-mask_rcnn_c4-more4", "detection-cascade_rcnn-more1", "instance-mask_rcnn-more5"),
    },
    "tests/tasks/test_detectors.py::test_the_loss_is_finite_where_there_is_nothing_to_learn": {
        *("instance-mask_rcnn_c4", "detection-cascade_rcnn"),
    },
    # with other random numbers
    "tests/kinds/test_tiles.py::test_many_at_random_places": {
        *("1-0.05", "1-0.3", "1-0.5", "2-0.05", "2-0.3", "2-0.5"),
    },
    # of other kinds of answers
    "tests/cli/test_instances.py::test_a_run_that_broke_off_resumes_to_the_same_weights": {"detection", "keypoints"},
    "tests/cli/test_instances.py::test_images_without_objects_and_with_hundreds_in_grey_and_in_sixteen_bits": {
        *("detection", "keypoints"),
    },
    "tests/engine/test_finders.py::test_every_task_is_left_as_it_was": {"detection", "keypoints"},
    # of sources whose other models are compared
    "tests/ledger/test_check.py::test_official_reference": {
        *("timm_deit_small_distilled_patch16_224", "timm_dla60", "timm_dla60_res2net", "timm_efficientnetv2_rw_s"),
        *("timm_hrnet_w18_small_v2", "timm_mixer_b16_224", "timm_res2net50_26w_4s", "timm_res2next50"),
        *("timm_resmlp_12_224", "timm_resnet18", "timm_resnet50", "timm_resnet50d", "timm_resnext50_32x4d"),
        *("timm_seresnet50", "timm_swin_tiny_patch4_window7_224", "timm_tf_efficientnetv2_s", "tv_efficientnet_v2_s"),
        *("wzm_swin_tiny_patch4_window7_224", "wzm_vit_base_patch16_224", "tv_vit_b_16"),
    },
    "tests/ledger/test_check.py::test_shipped_references": {
        *("timm_res2net50_26w_6s", "timm_res2net50_26w_8s", "timm_efficientnetv2_rw_m", "timm_resnext50_32x4d"),
    },
    "tests/parity/test_originals.py::test_original": {
        *("detectron2-mask_rcnn_c4", "mmdet-faster_rcnn_c4", "mmdet-hrnet", "detectron2-faster_rcnn_rgb"),
        *("mmdet-res2net_mdconv", "detectron2-mask_rcnn_dconv", "mmdet-mask_rcnn_dconv", "mmdet-mask_rcnn_gn"),
    },
    "tests/parity/test_originals.py::test_deformable_convolutions_are_read_off_the_file": {
        *("mmdet-mask_rcnn_dconv-mask_rcnn-False-1-False", "mmdet-cascade_rcnn_dconv-cascade_rcnn-False-1-False"),
    },
    "tests/parity/test_references.py::test_official_references": {"tv_fasterrcnn_resnet50_fpn"},
    "tests/parity/test_segmenters.py::test_official_references": {"hrnet_seg_w18_cityscapes"},
    "tests/parity/test_pose.py::test_names_of_hrnet": {"48-official"},
    "tests/parity/test_torchvision_parity.py::test_mask_rcnn": {"maskrcnn_resnet50_fpn"},
}
