"""Sections of a recipe, as frozen models."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mrecg.config.targets import ACADEMIC

__all__ = [
    "DEFAULT_BATCH_SIZE",
    "DEFAULT_STEPS",
    "FLOAT_BITS",
    "ActivationRanges",
    "ActivationSettings",
    "Answer",
    "Bits",
    "LayerOverride",
    "NetworkStage",
    "Placement",
    "PlanRule",
    "Precision",
    "Ranges",
    "Reconstruction",
    "Settings",
    "TensorSettings",
]

Precision = Literal["float32", "tfloat32", "bfloat16"]
FLOAT_BITS = 32
"""The width that means "leave in float"."""
DEFAULT_STEPS, DEFAULT_BATCH_SIZE = 500, 32
"""Steps of a group, and images per step, for small images where a recipe does not say."""


def _check_bits(bits: int) -> int:
    if not (2 <= bits <= 8 or bits in (16, FLOAT_BITS)):
        raise ValueError(f"expected 2 to 8 bits, 16, or {FLOAT_BITS} for float, got {bits}")
    return bits


def _read_float(bits: object) -> object:
    return FLOAT_BITS if bits == "float" else bits


Bits = Annotated[int, BeforeValidator(_read_float), AfterValidator(_check_bits)]
_MOST, _LARGEST, _SMALLEST = 100_000_000, 1e6, 1e-6
"""Far beyond what makes sense; without bounds, numbers that a file holds by mistake run out of floats, memory or days."""
_Pattern = Annotated[str, Field(max_length=1000)]
_Exponent = Annotated[float, Field(ge=_SMALLEST, le=_LARGEST)]


class Settings(BaseModel):
    """A section: frozen, and a key that it does not have is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Ranges(Settings):
    """How a quantizer finds its range.

    Attributes:
        method: `minmax`; `percentile`, which cuts both tails; `magnitude`, which cuts the tail of |x|; `std`, the mean ± some standard deviations where that is wider;
            `lsq`, the scale 2 mean |x| / √(largest code) of LSQ; or `error`, which minimizes the mean |x − x_q|^p.
        p: exponent of the error search.
        percentile: percent of the values that stay inside, on either side or by magnitude.
        std_multiple: how many standard deviations.
    """

    method: Literal["minmax", "percentile", "magnitude", "std", "lsq", "error"] = "error"
    p: float = Field(default=2.4, gt=0, le=_LARGEST)
    percentile: float = Field(default=99.9, gt=50, le=100)
    std_multiple: float = Field(default=2.6, gt=0, le=_LARGEST)


class ActivationRanges(Ranges):
    """How a quantizer of activations finds its range.

    Attributes:
        running_mean: the weight of the past in a running mean over ranges of single batches (`reconstruct.batch_size` images);
            `None` looks at all images at once, so that their order does not matter.
        sample: how many values of each tensor and image the search reads at most, at random positions.
    """

    running_mean: Annotated[float, Field(gt=0, lt=1)] | None = None
    sample: int = Field(default=1024, ge=1, le=_MOST)

    @model_validator(mode="after")
    def _averages_ranges(self) -> "ActivationRanges":
        if self.running_mean is not None and self.method == "lsq":
            raise ValueError("method = lsq finds a scale and no range, so there is no running_mean")
        return self


class TensorSettings(Settings):
    """The grid of weights or of activations.

    Attributes:
        bits: width of a code.
        symmetric: the zero point is 0 and codes are signed.
        narrow: a symmetric grid (no other) leaves out its lowest code, so that it reaches as far down as up.
        power_of_two: every scale is a power of two.
        logarithmic: codes are logarithms, as the backend NNIE has them; other grids are uniform.
        ranges: how a scale is found.
    """

    bits: Bits
    symmetric: bool = False
    narrow: bool = False
    power_of_two: bool = False
    logarithmic: bool = False
    ranges: Ranges = Ranges()


class ActivationSettings(TensorSettings):
    """The grid of activations.

    Attributes:
        unsigned: on a symmetric grid, a tensor that cannot be negative takes the codes 0 … 2^bits − 1.
    """

    unsigned: bool = False
    ranges: ActivationRanges = ActivationRanges()


class LayerOverride(Settings):
    """Widths for what a shell pattern names; `None` leaves a width as it is, and `float` leaves out the quantizer.

    Attributes:
        layers: pattern of layers or modules, such as `head.*`, of operators as the record writes them, such as
            `neck:cat_2`, or of a kind of operators, such as `aten.cat`. A module stands for all that is in it.
        weight_bits: of the layers.
        activation_bits: of what the layers and operators read.
    """

    layers: _Pattern
    weight_bits: Bits | None = None
    activation_bits: Bits | None = None


class Placement(Settings):
    """Which tensors are quantized.

    Attributes:
        backend: `academic`, the papers' simulation, or a target of `mrecg.config.targets` that the settings must suit.
        tensors: what `layers` (convolutions and linear layers) read, as in the papers; the `operands` of additions,
            products, concatenations, pooling and resizing too where these run in integers, and the results of convolutions
            that nothing else would round, at 8 bits or more; `fused-operands`, operands but for an addend that a layer adds
            up in its accumulator; or `all`: operands, and what layers and these operators return.
        first_last: `qdrop` (first and last layer at `first_last_bits`, the first layer's output already at
            the low width), `brecq` (the input of the second layer too) or `same` (no exception). The two
            conventions differ by points: never mix them in a table.
        first_last_bits: width of the layers that `first_last` excepts.
        shortcut: whether a shortcut sees the `quantized` or the `float` tensor that a layer reads.
        per_channel_weights: one range per output channel, or one per tensor.
        overrides: ordered; a later one wins; one that matches no layer is an error.
    """

    backend: Annotated[str, Field(max_length=100)] = ACADEMIC
    tensors: Literal["layers", "fused-operands", "operands", "all"] = "layers"
    first_last: Literal["qdrop", "brecq", "same"] = "qdrop"
    first_last_bits: Bits = 8
    shortcut: Literal["quantized", "float"] = "quantized"
    per_channel_weights: bool = True
    overrides: tuple[LayerOverride, ...] = ()

    @model_validator(mode="after")
    def _quantized_operands(self) -> "Placement":
        if self.tensors != "layers" and self.shortcut == "float":
            raise ValueError(
                f"tensors = {self.tensors} quantizes the shortcut, so it cannot be float"
            )
        return self


class PlanRule(Settings):
    """Which pieces are reconstructed, and which neighboring units jointly (MRECG: Ma et al., CVPR 2023).

    Attributes:
        granularity: the pieces: single `layer`s or `block`s.
        cut: where one piece ends and the next begins. `before-quantizers`: a quantizer belongs to the piece that reads it,
            and a piece's target is free of its error. `behind-quantizers`, as in the papers' code: a quantizer belongs to
            the piece that makes what it reads, and so does all else up to the next layer, such as pooling; those in front
            of the first layer belong to none, and their scales are not learned.
        join: `none`; by difference of `capacity` (ModCap, data-free) or of `loss` (a short run without
            joining); at every change of `stage`; by a `scheme` as the authors write it; or `explicit`.
        difference: CapDiff as `square` (the paper) or as `log-ratio`, which does not favor deep layers.
        count: how many pairs of neighbors to join; `auto` takes those whose CapDiff exceeds the mean, `all` as many as
            `largest_group` allows, so that `keep` decides by what each join gains.
        largest_group: units in one group at most.
        keep: `better` tries each join, and keeps it only if the group's end is nearer to the float network than with its
            units one by one, on mirrored images, which tune nothing; `all` joins without trying.
        joined_steps: whether a group gets the steps of one unit for each of its units (`per-unit`), or, as in the paper, once
            (`per-group`).
        joined_start: whether a group is `continued` from what the run for `loss` found for its units, or starts `anew`.
        loss_steps: fraction of the steps that the run for `loss` takes.
        scheme: how many units each group of a scheme takes, along the chain.
        groups: the groups of an explicit plan, as lists of unit names; other units stay single.
    """

    granularity: Literal["layer", "block"] = "block"
    cut: Literal["before-quantizers", "behind-quantizers"] = "before-quantizers"
    join: Literal["none", "capacity", "loss", "stage", "scheme", "explicit"] = "none"
    difference: Literal["square", "log-ratio"] = "square"
    count: Annotated[int, Field(ge=0, le=_MOST)] | Literal["auto", "all"] = "auto"
    largest_group: int = Field(default=3, ge=2, le=_MOST)
    keep: Literal["better", "all"] = "better"
    joined_steps: Literal["per-unit", "per-group"] = "per-unit"
    joined_start: Literal["continued", "anew"] = "continued"
    loss_steps: float = Field(default=0.25, gt=0, le=1)
    scheme: tuple[Annotated[int, Field(ge=1, le=_MOST)], ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()

    @model_validator(mode="after")
    def _joins_what_is_given(self) -> "PlanRule":
        for join, key, given in (
            ("scheme", "scheme", self.scheme),
            ("explicit", "groups", self.groups),
        ):
            if given and self.join != join:
                raise ValueError(
                    f"{key} is read only where join = {join}, got join = {self.join}; set it, or {key} to []"
                )
            if self.join == join and not given:
                raise ValueError(f"join = {join} needs {key}, which is empty")
        return self


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
        steps: optimizer steps per group; 0 is rounding to nearest, where no closed form rounds. `auto` is 500 for images of up to 64², and
            fewer in proportion to the side of larger ones, down to 125: each of their steps sees more positions.
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
            bits and, where the processor has it, is faster for dense convolutions but not for depthwise ones;
            `tfloat32` rounds them to 11 bits on CUDA devices and changes nothing on others; `auto` is `bfloat16` for groups
            without grouped convolutions on processors that multiply in it, and else `float32`. What is learned stays in float32.
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
    steps: Annotated[int, Field(ge=0, le=_MOST)] | Literal["auto"] = "auto"
    images: Annotated[int, Field(ge=2, le=_MOST)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=_MOST)] | Literal["auto"] = "auto"
    window: Annotated[int, Field(ge=1, le=_MOST)] | Literal["none"] = "none"
    rounding_rate: Annotated[float, Field(gt=0, le=_LARGEST)] | Literal["auto"] = "auto"
    activation_rate: Annotated[float, Field(ge=0, le=_LARGEST)] | Literal["auto"] = "auto"
    activation_rate_unit: Literal["relative", "absolute"] = "relative"
    weight_scale_rate: Annotated[float, Field(ge=0, le=_LARGEST)] | Literal["auto"] = "auto"
    penalty: float = Field(default=0.01, ge=0, le=_LARGEST)
    warm_up: float = Field(default=0.2, ge=0, lt=1)
    penalty_at: Literal["start", "end"] = "start"
    beta: tuple[_Exponent, _Exponent] = (20.0, 2.0)
    keep_quantized_probability: float = Field(default=1.0, gt=0, le=1)
    precision: Precision | Literal["auto"] = "float32"
    cuda_graphs: bool = True
    cache: Literal["float32", "float16"] = "float32"
    batches: Literal["reshuffled", "fixed"] = "reshuffled"
    early_stop: bool = True
    exclude: tuple[_Pattern, ...] = ()
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
            the images replaces them.
        temperature: by which logits are divided before their divergence is taken while codes are learned (Hinton et al.,
            2015).
        feature_weight: of the units' mean relative error, next to the divergence of the outputs.
    """

    steps: Annotated[int, Field(ge=0, le=_MOST)] | Literal["auto"] = "auto"
    learn: Literal["scales", "codes"] = "codes"
    code_rate: float = Field(default=0.02, gt=0, le=_LARGEST)
    scale_rate: float = Field(default=1e-3, gt=0, le=_LARGEST)
    augment: tuple[Literal["mirror", "cutmix", "mixup"], ...] = ("cutmix",)
    temperature: float = Field(default=4.0, ge=_SMALLEST, le=_LARGEST)
    feature_weight: float = Field(default=1.0, ge=0, le=_LARGEST)
