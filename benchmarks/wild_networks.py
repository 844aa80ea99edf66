"""Networks of other people's packages with random weights, small enough for a CPU, for `wild_zoo.py`.

`networks(package)`, a table of builders a package, with the inputs that each takes. Nothing is downloaded and nothing
is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Inputs = tuple[Any, ...]


@dataclass(frozen=True)
class Network:
    """One network of a package.

    Attributes:
        package: as it is imported.
        name: unique within the package.
        build: makes it, with random weights; the argument is the images' width, for those whose code fixes it.
        inputs: batch size, width of the images (or number of tokens) -> the arguments of `forward`.
        size: the width that is used.
        step: how much wider the other images are.
        unused: parts that its forward never runs, which we declare, as our message asks for.
    """

    package: str
    name: str
    build: Callable[[int], nn.Module]
    inputs: Callable[[int, int], Inputs]
    size: int = 64
    step: int = 64
    unused: tuple[str, ...] = ()

    def inputs_of(self, batch: int, size: int, seed: int) -> Inputs:
        """The arguments of `forward`, noise of a seed."""
        torch.manual_seed(seed)
        return self.inputs(batch, size)


def networks(package: str) -> list[Network]:
    """All networks of one of `PACKAGES`."""
    return PACKAGES[package]()


def images(batch: int, size: int) -> Inputs:
    """Colour images of noise."""
    return (torch.randn(batch, 3, size, size),)


def grey(batch: int, size: int) -> Inputs:
    """The same with one channel."""
    return (torch.randn(batch, 1, size, size),)


def photographs(batch: int, size: int) -> Inputs:
    """Colour images of noise between 0 and 1."""
    return (torch.rand(batch, 3, size, size),)


def masked(batch: int, size: int) -> Inputs:
    """Colour images, each with a mask of holes."""
    return torch.randn(batch, 3, size, size), (torch.rand(batch, 1, size, size) > 0.5).float()


def tokens(batch: int, size: int) -> Inputs:
    """Sentences of random words."""
    return (torch.randint(5, 90, (batch, size)),)


TIMM = """
    beit_base_patch16_224 eca_botnext26ts_256 eca_halonext26ts lambda_resnet26t test_byobnet mobileone_s1 repvgg_a0
    cait_xxs24_224 coat_lite_tiny convit_tiny convmixer_768_32 test_convnext convnextv2_atto cpubone_nano
    crossvit_tiny_240 csatv2 cs3darknet_s cspnext_tiny davit_tiny deit_tiny_patch16_224 deit_tiny_distilled_patch16_224
    densenet121 dla46_c dpn48b edgenext_xx_small efficientformer_l1 efficientformerv2_s0 mobilenetv2_050 mnasnet_small
    efficientvim_m1 efficientvit_b0 efficientvit_m0 vit_tiny_patch16_dinov3_qkvb eva02_tiny_patch14_224 fasternet_t0
    fastvit_t8 focalnet_tiny_srf gcvit_xxtiny ghostnet_050 hardcorenas_a hgnetv2_b0 hiera_tiny_224 sam2_hiera_tiny
    hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small
    levit_128s lowformer_b0 test_mambaout maxvit_pico_rw_256 coatnet_pico_rw_224 poolformerv2_s12 poolformer_s12
    gmlp_ti16_224 mixer_s32_224 mobilenetv3_small_050 lcnet_035 mobilevit_xxs mobilevitv2_050 mvitv2_tiny
    nasnetalarge nest_tiny nextvit_small test_nfnet nf_regnet_b0 pit_ti_224 pnasnet5large pvt_v2_b0 regnetx_002
    regnety_002
    repghostnet_050 repvit_m1 res2net50_26w_4s resnest26d
    resnet10t seresnet18 test_resnet resnetv2_18 rexnet_100 selecsls42 seresnext26t_32x4d skresnet18 swiftformer_xs
    starnet_s1 swin_tiny_patch4_window7_224 swinv2_cr_tiny_ns_224 swinv2_tiny_window8_256 shvit_s1 tiny_vit_5m_224
    tnt_s_legacy_patch16_224 tresnet_m twins_pcpvt_small vgg11_bn visformer_tiny test_vit vit_tiny_r_s16_p8_224
    vit_relpos_small_patch16_rpn_224 samvit_base_patch16_224 vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw
    xception41p xcit_nano_12_p8_224 rdnet_tiny
"""
TIMM_SETTINGS: dict[str, dict[str, Any]] = {"beit_base_patch16_224": {"depth": 3}}
"""Depths of the largest."""


def _timm() -> list[Network]:
    """One or two of each of timm's modules, at 64 pixels where the code allows it."""
    import timm

    known = set(timm.list_models())
    missing = [name for name in TIMM.split() if name not in known]
    if missing:
        raise SystemExit(
            f"this version of timm lacks {', '.join(missing)}; benchmarks/requirements.txt names the version"
        )

    def builder(name: str) -> Callable[[int], nn.Module]:
        settings = TIMM_SETTINGS.get(name, {})

        def build(size: int) -> nn.Module:
            try:
                return timm.create_model(name, img_size=size, **settings)
            except (TypeError, AssertionError, ValueError):
                return timm.create_model(name, **settings)

        return build

    return [Network("timm", name, builder(name), images, _timm_size(name)) for name in TIMM.split()]


def _timm_size(name: str) -> int:
    import timm

    if name in TIMM_FIXED:
        return int(timm.models.get_pretrained_cfg(name).input_size[-1])
    return (
        128 if name.startswith(("inception_v", "inception_resnet")) else 64
    )  # its maps would be smaller than its kernels


TIMM_FIXED: tuple[str, ...] = ("eca_halonext26ts", "crossvit_tiny_240", "efficientformer_l1")
"""Those whose code holds the width of the image."""


DOUBLE: dict[str, Any] = {"upscale": 2, "upsampler": "pixelshuffle"}
SPANDREL: dict[str, tuple[str, dict[str, Any]]] = {
    "ATD": ("ATD", {"depths": (2, 2), "num_heads": (6, 6), "upsampler": "pixelshuffle", "upscale": 2}),
    "AuraSR": (
        "AuraSR",
        {
            "dim": 16,
            "image_size": 64,
            "input_image_size": 64,
            "init_dim": 16,
            "up_dim_mults": (1, 2, 4),
            "down_dim_mults": (2, 4),
            "full_attn": (False, True, True),
            "attn_depths": (1, 1, 1),
            "style_network": {"dim_in": 16, "dim_out": 16, "depth": 2},
            "mid_attn_depth": 1,
            "self_attn_dim_head": 8,
            "self_attn_heads": 2,
        },
    ),
    "CRAFT": ("CRAFT", {"depths": [2, 2], "num_heads": [6, 6], "upscale": 2}),
    "Compact": ("Compact", {}),
    "DAT": ("DAT", {"embed_dim": 60, "depth": [2, 2], "num_heads": [2, 2], "split_size": [8, 16]}),
    "DCTLSA": ("DCTLSA", {}),
    "DITN": ("DITN", {"ITL_blocks": 2, "SAL_blocks": 2}),
    "DRCT": ("DRCT", {"embed_dim": 60, "depths": (6, 6), "num_heads": (6, 6), **DOUBLE}),
    "DRUNet": ("DRUNet", {"nc": [16, 32, 64, 128]}),
    "DnCNN": ("DnCNN", {}),
    "ESRGAN": ("ESRGAN", {"num_blocks": 3}),
    "FBCNN": ("FBCNN", {"nc": [16, 32, 64, 512], "nb": 1}),
    "FDAT": ("FDAT", {"num_groups": 2}),
    "FFTformer": ("FFTformer", {"num_blocks": [2, 2, 2], "num_refinement_blocks": 2}),
    "GFPGAN": ("GFPGAN", {"out_size": 64, "num_style_feat": 64, "narrow": 0.25}),
    "GRL": ("GRL", {"depths": [2, 2], "num_heads_window": [3, 3], "num_heads_stripe": [3, 3], **DOUBLE}),
    "HAT": ("HAT", {"depths": (2, 2), "num_heads": (6, 6), "window_size": 8, "upscale": 2}),
    "HVICIDNet": ("HVICIDNet", {}),
    "IPT": ("IPT", {"num_layers": 2, "n_feats": 16, "num_heads": 4}),
    "KBNet_l": ("KBNet", {"num_blocks": [2, 2, 2, 2], "num_refinement_blocks": 2}),
    "KBNet_s": ("KBNet", {"width": 16, "middle_blk_num": 2, "enc_blk_nums": [1, 1, 2, 2]}),
    "LaMa": ("LaMa", {"in_nc": 4, "out_nc": 3}),
    "MMRealSR": ("MMRealSR", {"num_in_ch": 3, "num_out_ch": 3, "num_block": 3}),
    "MixDehazeNet": ("MixDehazeNet", {}),
    "MoESR": ("MoESR", {"n_blocks": 3, "n_block": 2}),
    "MoSR": ("MoSR", {"n_block": 6}),
    "NAFNet": ("NAFNet", {"enc_blk_nums": [1, 1, 2], "dec_blk_nums": [1, 1, 1]}),
    "OmniSR": ("OmniSR", {"res_num": 2}),
    "PLKSR": ("PLKSR", {"n_blocks": 6}),
    "RealPLKSR": ("PLKSR", {"n_blocks": 6}),
    "RCAN": ("RCAN", {"n_resgroups": 2, "n_resblocks": 4}),
    "RGT": ("RGT", {"embed_dim": 60, "depth": [2, 2], "num_heads": [2, 2]}),
    "UpCunet2x": ("RealCUGAN", {}),
    "UpCunet2x_fast": ("RealCUGAN", {}),
    "UpCunet3x": ("RealCUGAN", {}),
    "UpCunet4x": ("RealCUGAN", {}),
    "RestoreFormer": (
        "RestoreFormer",
        {"ch": 32, "ch_mult": (1, 2, 2, 4), "resolution": 128, "z_channels": 64, "embed_dim": 64},
    ),
    "RetinexFormer": ("RetinexFormer", {"stage": 1}),
    "SAFMN": ("SAFMN", {"dim": 36}),
    "SAFMNBCIE": ("SAFMNBCIE", {"dim": 36, "n_blocks": 2, "num_layers": 2}),
    "SCUNet": ("SCUNet", {"config": [2, 2, 2, 2, 2, 2, 2]}),
    "SPAN": ("SPAN", {"num_in_ch": 3, "num_out_ch": 3}),
    "SeemoRe": ("SeemoRe", {"num_layers": 3, "embedding_dim": 36}),
    "SwiftSRGAN": ("SwiftSRGAN", {"num_blocks": 4}),
    "Swin2SR": ("Swin2SR", {"depths": [2, 2], "num_heads": [6, 6], "window_size": 8, "upsampler": "pixelshuffle"}),
    "SwinIR": ("SwinIR", {"depths": [2, 2], "num_heads": [6, 6], "window_size": 8, **DOUBLE}),
    "Uformer": ("Uformer", {"img_size": 128, "embed_dim": 16}),
}  # fmt: skip
"""Class -> the architecture's folder and its arguments: shallow, the structure is the same."""
SPANDREL_SIZES = {"Uformer": 128, "IPT": 48, "DITN": 64, "SwiftSRGAN": 32}
SPANDREL_UNUSED = {"GFPGAN": ("stylegan_decoder.style_mlp",), "FFTformer": ("reduce_chan_level2",),
                   "SwiftSRGAN": ("residual.*.block2.act", "convblock.act")}  # fmt: skip


def _spandrel() -> list[Network]:
    def builder(name: str, folder: str, settings: dict[str, Any]) -> Callable[[int], nn.Module]:
        return lambda size: getattr(importlib.import_module(f"spandrel.architectures.{folder}"), name)(**settings)

    other = {"DRUNet": grey, "DnCNN": grey, "LaMa": masked, "HVICIDNet": photographs}
    return [
        Network(
            "spandrel",
            name,
            builder(name, *found),
            other.get(name, images),
            SPANDREL_SIZES.get(name, 64),
            unused=SPANDREL_UNUSED.get(name, ()),
        )
        for name, found in SPANDREL.items()
    ]


DECODERS = "Unet UnetPlusPlus MAnet Linknet FPN PSPNet DeepLabV3 DeepLabV3Plus PAN UPerNet Segformer"
"""All but DPT, whose encoder is a ViT of 86 million parameters."""


def _decoders() -> list[Network]:
    import segmentation_models_pytorch as smp

    return [
        Network(
            "segmentation_models_pytorch",
            name,
            lambda size, name=name: getattr(smp, name)("resnet18", encoder_weights=None),
            images,
            128 if name in ("PAN", "UPerNet") else 64,
            unused=("encoder.layer3", "encoder.layer4") if name == "PSPNet" else (),
        )
        for name in DECODERS.split()
    ]


YOLO = (
    "yolo11n yolo11n-seg yolo11n-cls yolo11n-pose yolo11n-obb yolo12n yolo26n yolo26n-seg yolo26n-pose yolov10n "
    "yolov9t yolov8n yolov8n-ghost yolov6n yolov5n yolov3-tiny"
)


def _yolo() -> list[Network]:
    os.environ.setdefault("YOLO_OFFLINE", "true")
    from ultralytics.nn import tasks

    kinds = {
        "seg": tasks.SegmentationModel,
        "cls": tasks.ClassificationModel,
        "pose": tasks.PoseModel,
        "obb": tasks.OBBModel,
    }

    def builder(name: str) -> Callable[[int], nn.Module]:
        kind = kinds.get(name.rpartition("-")[2], tasks.DetectionModel)
        return lambda size: kind(f"{name}.yaml", ch=3, verbose=False)

    return [Network("ultralytics", name, builder(name), images) for name in YOLO.split()]


class Positional(nn.Module):
    """A network of transformers that takes its inputs by position and gives a tuple of tensors."""

    alike_in_training = True

    def __init__(self, network: nn.Module, *names: str) -> None:
        super().__init__()
        self.network = network
        self.names = names

    def forward(self, *inputs: torch.Tensor) -> Any:
        """All outputs, without a cache of keys and values."""
        extra = {"use_cache": False} if "input_ids" in self.names and hasattr(self.network.config, "use_cache") else {}
        return self.network(**dict(zip(self.names, inputs, strict=True)), **extra, return_dict=False)


SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
WORDS = {"vocab_size": 99, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SMALL_TEXT = {**SMALL, **WORDS}
VISION = {**SMALL, "image_size": 64}
DECODER = {**SMALL_TEXT, "num_key_value_heads": 2, "max_position_embeddings": 64}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "ViT": {**VISION, "patch_size": 16},
    "Swin": {"image_size": 64, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    "Swinv2": {"image_size": 64, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    "ConvNext": {"hidden_sizes": [16, 32, 64], "depths": [2, 2, 2], "num_stages": 3},
    "ConvNextV2": {"hidden_sizes": [16, 32, 64], "depths": [2, 2, 2], "num_stages": 3},
    "ResNet": {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [2, 2]},
    "RegNet": {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [2, 2], "groups_width": 16},
    "MobileViT": {"image_size": 64},
    "MobileViTV2": {"image_size": 64},
    "MobileNetV2": {},
    "EfficientNet": {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280, "image_size": 64},
    "Segformer": {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1]},
    "Beit": {**VISION, "patch_size": 16},
    "Dinov2": {**VISION, "patch_size": 16},
    "Pvt": {"image_size": 64, "hidden_sizes": [16, 32, 80, 64], "depths": [1, 1, 1, 1]},
    "PoolFormer": {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1]},
    "Levit": {"image_size": 64, "hidden_sizes": [32, 64, 64], "depths": [2, 2, 2], "num_attention_heads": [2, 4, 4]},
    "Cvt": {"embed_dim": [16, 32, 64], "num_heads": [1, 2, 4], "depth": [1, 2, 3]},
    "Hiera": {"image_size": [64, 64], "embed_dim": 32, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]},
    "Bert": SMALL_TEXT,
    "Roberta": SMALL_TEXT,
    "DistilBert": {"dim": 64, "n_layers": 3, "n_heads": 4, "hidden_dim": 128, "vocab_size": 99},
    "Albert": {**SMALL_TEXT, "embedding_size": 32},
    "Electra": {**SMALL_TEXT, "embedding_size": 32},
    "GPT2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 64, **WORDS},
    "T5Encoder": {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 3, "num_heads": 4, **WORDS},
    "Bart": {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
             "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, **WORDS},
    "OPT": {"hidden_size": 64, "num_hidden_layers": 3, "ffn_dim": 128, "num_attention_heads": 4, **WORDS,
            "word_embed_proj_dim": 64, "max_position_embeddings": 64},
    "Llama": DECODER,
    "Mistral": DECODER,
    "Qwen2": DECODER,
    "Gemma": {**DECODER, "head_dim": 16},
    "MPNet": SMALL_TEXT,
    "FNet": SMALL_TEXT,
}  # fmt: skip
TEXT_FROM = "Bert"


def _transformers() -> list[Network]:
    import transformers

    def builder(name: str, settings: dict[str, Any], text: bool) -> Callable[[int], nn.Module]:
        def build(size: int) -> nn.Module:
            config = getattr(transformers, f"{name.removesuffix('Encoder')}Config")(**settings)
            network = getattr(transformers, f"{name}Model")(config)
            return Positional(network, "input_ids" if text else "pixel_values")

        return build

    order = list(TRANSFORMERS)
    text = set(order[order.index(TEXT_FROM) :])
    return [
        Network("transformers", name, builder(name, settings, name in text), tokens if name in text else images,
                16 if name in text else 64, 5 if name in text else 64,
                ("network.embeddings.mask_token",) if name == "Dinov2" else ())
        for name, settings in TRANSFORMERS.items()
    ]  # fmt: skip


PACKAGES: dict[str, Callable[[], list[Network]]] = {
    "timm": _timm,
    "spandrel": _spandrel,
    "segmentation_models_pytorch": _decoders,
    "ultralytics": _yolo,
    "transformers": _transformers,
}
