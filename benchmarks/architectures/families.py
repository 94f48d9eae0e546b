"""The architectures that the benchmark takes through."""

__all__ = ["FAMILIES", "family", "networks"]

FAMILIES = {
    "residual": (
        "resnet18 regnetx_200m timm:resnetv2_18 timm:resnetblur18 timm:nf_resnet26 timm:dla46_c "
        "timm:hrnet_w18_small timm:gernet_s timm:test_byobnet"
    ),
    "depthwise": (
        "mobilenetv2_035 efficientnet_lite0 torchvision:mnasnet0_5 timm:mixnet_s timm:mobilenetv4_conv_small_035 "
        "timm:starnet_s050 timm:convnext_atto timm:inception_next_atto timm:fasternet_t0"
    ),
    "dense": (
        "torchvision:densenet121 timm:ese_vovnet19b_slim timm:hgnetv2_b0 timm:cs3darknet_s timm:selecsls42"
    ),
    "split/shuffle": (
        "torchvision:shufflenet_v2_x0_5 timm:ghostnet_050 timm:resnest14d timm:res2net50_48w_2s"
    ),
    "squeeze-excite": (
        "timm:mobilenetv3_small_050 timm:regnety_002 timm:lcnet_035 timm:skresnet18 timm:test_nfnet"
    ),
    "inception": "torchvision:googlenet torchvision:inception_v3@96 torchvision:squeezenet1_1",
    "re-parameterised": (
        "timm:repvgg_a0 timm:mobileone_s0 timm:repghostnet_050 timm:repvit_m0_9 timm:fastvit_t8"
    ),
    "attention": (
        "timm:deit_tiny_patch16_224@224 torchvision:swin_t timm:xcit_nano_12_p16_224@224 timm:pvt_v2_b0 "
        "timm:pit_ti_224@224 timm:eva02_tiny_patch14_224@224 timm:mixer_s32_224@224 timm:gmlp_ti16_224@224 "
        "timm:twins_svt_small timm:mvitv2_tiny@224 timm:hiera_tiny_224@224 timm:nest_tiny@224 "
        "timm:swinv2_cr_tiny_224@224"
    ),
    "hybrid": (
        "timm:mobilevit_xxs timm:mobilevitv2_050 timm:edgenext_xx_small timm:efficientvit_b0 "
        "timm:levit_128s@224 timm:poolformer_s12 timm:test_maxvit@160 timm:test_coatnet@160 timm:botnet26t_256@256 "
        "timm:tiny_vit_5m_224@224"
    ),
    "segmentation": (
        "zoo:lraspp zoo:deeplabv3 zoo:fcn zoo:smp_unet zoo:smp_fpn zoo:smp_linknet zoo:unet"
    ),
    "detection": (
        "zoo:retinanet@128 zoo:fcos@128 zoo:faster_rcnn_rpn@128 zoo:ssdlite@128 zoo:yolo zoo:centernet"
    ),
    "super-resolution": "zoo:espcn@32 zoo:fsrcnn@32 zoo:edsr@32 zoo:dense_super_resolution@32",
    "pose": "zoo:pose_heatmaps zoo:pose_coordinates zoo:hourglass",
    "text": (
        "zoo:text@3x32x128 zoo:text_lstm@3x32x128 zoo:text_gru@3x32x128 zoo:text_attention@3x32x128"
    ),
    "audio": (
        "zoo:audio_classifier@1x4000 zoo:audio_unet@1x1024 zoo:audio_gated@1x1024 "
        "zoo:keyword_spotter@1x48x40"
    ),
    "MTCNN": "zoo:pnet zoo:rnet@24 zoo:onet@48",
    "two inputs": "zoo:stereo@6x64x64 zoo:fusion@6x64x64 zoo:change@6x64x64",
    "from ONNX": (
        "zoo:onnx_unet zoo:onnx_lraspp zoo:onnx_yolo zoo:onnx_espcn@32 zoo:onnx_text@3x32x128 "
        "zoo:onnx_retinanet@128 zoo:onnx_audio@1x4000"
    ),
}
"""Architectures by what makes them different."""


def networks() -> list[str]:
    """Return all of them, as NAME, NAME@SIDE or NAME@CHANNELSxHEIGHTxWIDTH."""
    return [name for names in FAMILIES.values() for name in names.split()]


def family(network: str) -> str:
    """Return the family of a network of the list; of any other, nothing."""
    found = (one for one, names in FAMILIES.items() if network in names.split())
    return next(found, "")
