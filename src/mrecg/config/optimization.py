"""Sections of a recipe: how groups, and then the network as a whole, are optimized."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from mrecg.config.sections import LARGEST, MOST, SMALLEST, Pattern, Settings

__all__ = [
    "DEFAULT_BATCH_SIZE",
    "DEFAULT_STEPS",
    "Answer",
    "NetworkStage",
    "Precision",
    "Reconstruction",
]

Precision = Literal["float32", "tfloat32", "bfloat16"]
DEFAULT_STEPS, DEFAULT_BATCH_SIZE = 500, 32
"""Steps of a group, and images per step, for small images where a recipe does not say."""
_Exponent = Annotated[float, Field(ge=SMALLEST, le=LARGEST)]

AnswerKind = Literal["auto", "logits", "values"]


class Answer(Settings):
    """One output of the network, as it is compared with the float network's.

    Attributes:
        kind: `logits`, compared by the divergence of the predictions that they mean, to which adding one number to all of
            them is nothing; `values`, compared by their relative error; `auto` takes a table of images × numbers for
            logits where the mean of its rows hardly varies from image to image, as training for classes leaves it, and some of
            its numbers are negative.
        weight: of its distance in the sum over the outputs.
    """

    kind: AnswerKind = "auto"
    weight: float = Field(default=1.0, ge=0)


def _read_answers(given: object) -> object:
    """Read the kind of an output as an answer of weight 1."""
    if isinstance(given, list | tuple):
        return [{"kind": one} if isinstance(one, str) else one for one in given]
    return given


class Reconstruction(Settings):
    """How the groups are optimized.

    Attributes:
        rounding: how weights round: `learned`, in `steps`, or `qronos`, in closed form and without steps: layer after layer, each
            column takes over what those before it lost on what the layer reads in the quantized network (Zhang et al., 2025;
            GPTQ, but towards the float network's products). It keeps the calibrated scales.
        steps: optimizer steps per group; 0 is rounding to nearest. `auto` is 500 for images of up to 64², and from 4 weight bits on fewer
            in proportion to the side of larger ones, down to 125: each of their steps sees more positions.
        images: how many of the calibration images the groups read, the first ones; all where it is `None`. The network stage
            reads all: it caches nothing, so more images cost it nothing.
        batch_size: images per step; `auto` is 32 for images of up to 64², and fewer in proportion to the area of larger ones, down to 8.
        window: about how many positions of each image of a batch a step compares where a group's maps are large (more than
            49,152 numbers). A step then reads a random window of every image, with the margin that gives the whole map's
            values, or, where that is no saving, whole maps of fewer images, a quarter of the batch at least. `none` reads all.
        rounding_rate: Adam's rate for the rounding variables; `auto` scales it with the budget.
        activation_rate: the same for the activation scales; it decays to 0 by a cosine.
        activation_rate_unit: whether that rate is a fraction of each scale (`relative`), or `absolute` as in the papers' code.
        weight_scale_rate: the same for the weight scales, in codes of the whole range (Genie: Jeon et al., CVPR 2023); 0 keeps them as calibrated.
        penalty: weight λ of the rounding penalty, against a loss that is summed over channels.
        warm_up: fraction of the steps without penalty.
        penalty_at: whether warm-up and β are those at the `start` of a step or at its `end`, as in the papers' code, whose
            counter starts at 1.
        beta: exponent of the penalty, from its first to its last value.
        keep_quantized_probability: 1 is BRECQ; below, each activation stays float with the rest (QDrop).
        precision: of the convolutions and matrix products while something is learned; `bfloat16` rounds their inputs to 8
            bits, except for grouped convolutions on a CPU; `tfloat32` rounds them to 11 bits on CUDA devices and changes nothing
            on others; `fastest` is `bfloat16` on processors that multiply in it, and else `float32`; `auto` is `float32` for images
            of up to 64² and `fastest` for larger ones. What is learned, and whatever is measured, is float32 throughout.
        cuda_graphs: whether a CUDA device repeats a recorded step where it can, which spares it waiting for the host.
        cache: precision of the stored inputs and targets; `float16` halves memory and rounds them to 11 bits, to
            fewer below 6e-5, and cuts them off at 65,504.
        batches: `reshuffled` every epoch, or the authors' `fixed` ones; images that fill no batch are left out, in
            each epoch others or always the last.
        early_stop: whether a group stops when its roundings are decided and its loss is flat.
        exclude: shell patterns of the layers whose weights stay rounded to nearest.
        answer: what the outputs are, where the network as a whole is optimized: the kind of all of them, or a list with an
            `Answer` or its kind for each, in the order in which the network returns them.
    """

    rounding: Literal["learned", "qronos"] = "learned"
    steps: Annotated[int, Field(ge=0, le=MOST)] | Literal["auto"] = "auto"
    images: Annotated[int, Field(ge=2, le=MOST)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=MOST)] | Literal["auto"] = "auto"
    window: Annotated[int, Field(ge=1, le=MOST)] | Literal["none"] = "none"
    rounding_rate: Annotated[float, Field(gt=0, le=LARGEST)] | Literal["auto"] = "auto"
    activation_rate: Annotated[float, Field(ge=0, le=LARGEST)] | Literal["auto"] = "auto"
    activation_rate_unit: Literal["relative", "absolute"] = "relative"
    weight_scale_rate: Annotated[float, Field(ge=0, le=LARGEST)] | Literal["auto"] = "auto"
    penalty: float = Field(default=0.01, ge=0, le=LARGEST)
    warm_up: float = Field(default=0.2, ge=0, lt=1)
    penalty_at: Literal["start", "end"] = "start"
    beta: tuple[_Exponent, _Exponent] = (20.0, 2.0)
    keep_quantized_probability: float = Field(default=1.0, gt=0, le=1)
    precision: Precision | Literal["fastest", "auto"] = "auto"
    cuda_graphs: bool = True
    cache: Literal["float32", "float16"] = "float32"
    batches: Literal["reshuffled", "fixed"] = "reshuffled"
    early_stop: bool = True
    exclude: tuple[Pattern, ...] = ()
    answer: Annotated[AnswerKind | tuple[Answer, ...], BeforeValidator(_read_answers)] = "auto"

    @model_validator(mode="after")
    def _takes_steps_or_none(self) -> "Reconstruction":
        if self.rounding != "learned" and self.steps:
            raise ValueError(
                f"rounding = {self.rounding} takes no steps, got steps = {self.steps}; set steps to 0, or rounding to learned"
            )
        return self

    @property
    def step_count(self) -> int:
        """Return `steps`, those for small images where the images have not decided yet."""
        return DEFAULT_STEPS if self.steps == "auto" else self.steps

    @property
    def images_per_step(self) -> int:
        """Return `batch_size`, that for small images where the images have not decided yet."""
        return DEFAULT_BATCH_SIZE if self.batch_size == "auto" else self.batch_size

    @property
    def reads_images(self) -> bool:
        """Return whether codes depend on the calibration images: those rounded to nearest do not."""
        return self.step_count > 0 or self.rounding != "learned"

    @property
    def cached_bytes_per_element(self) -> int:
        """Return the bytes of one cached number."""
        return 2 if self.cache == "float16" else 4


class NetworkStage(Settings):
    """How the network as a whole is optimized after its groups (NWQ: Wang et al., 2022; EPTQ: Gordon et al., 2023).

    Attributes:
        steps: optimizer steps; `auto` is as many as each group gets where codes are learned, else a fifth of that; 0 leaves the stage out, as the papers do.
        learn: `codes` and scales, or `scales` alone, with rates that fall with the budget. Codes win back a third or more of what
            the groups lose at 2 bits (docs/choices.md); the more images there are, the more.
        code_rate: Adam's rate for the codes, in code units; it decays to 0 by a cosine.
        scale_rate: the same for scales while codes are learned, as a fraction of each scale.
        augment: views of the images while codes are learned: paste patches of other images (`cutmix`), `mirror` half of the
            batches (where the float network was trained on mirrored images), blend images (`mixup`). A function that is given with
            the images replaces them, and is used for scales alone, too.
        temperature: by which logits are divided before their divergence is taken while codes are learned (Hinton et al.,
            2015).
        feature_weight: of the units' mean relative error, next to the divergence of the outputs.
    """

    steps: Annotated[int, Field(ge=0, le=MOST)] | Literal["auto"] = "auto"
    learn: Literal["scales", "codes"] = "codes"
    code_rate: float = Field(default=0.02, gt=0, le=LARGEST)
    scale_rate: float = Field(default=1e-3, gt=0, le=LARGEST)
    augment: tuple[Literal["mirror", "cutmix", "mixup"], ...] = ("cutmix",)
    temperature: float = Field(default=4.0, ge=SMALLEST, le=LARGEST)
    feature_weight: float = Field(default=1.0, ge=0, le=LARGEST)
