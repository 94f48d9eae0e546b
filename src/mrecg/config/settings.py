"""Sections of a recipe: widths and ranges, where quantizers are placed, and what is joined."""

from collections import Counter
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from mrecg.config.sections import LARGEST, MOST, Pattern, Settings
from mrecg.config.targets import ACADEMIC

__all__ = [
    "FLOAT_BITS",
    "ActivationRanges",
    "ActivationSettings",
    "Bits",
    "LayerOverride",
    "Placement",
    "PlanRule",
    "Ranges",
    "TensorSettings",
]

FLOAT_BITS = 32
"""The width that means "leave in float"."""


def _check_bits(bits: int) -> int:
    if not (2 <= bits <= 8 or bits in (16, FLOAT_BITS)):
        raise ValueError(f"expected 2 to 8 bits, 16, or {FLOAT_BITS} for float, got {bits}")
    return bits


def _read_float(bits: object) -> object:
    return FLOAT_BITS if bits == "float" else bits


Bits = Annotated[int, BeforeValidator(_read_float), AfterValidator(_check_bits)]


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
    p: float = Field(default=2.4, gt=0, le=LARGEST)
    percentile: float = Field(default=99.9, gt=50, le=100)
    std_multiple: float = Field(default=2.6, gt=0, le=LARGEST)


class ActivationRanges(Ranges):
    """How a quantizer of activations finds its range.

    Attributes:
        running_mean: the weight of the past in a running mean over ranges of single batches (`reconstruct.batch_size` images);
            `None` looks at all images at once, so that their order does not matter.
        sample: how many values of each tensor and image the search reads at most, at random positions.
    """

    running_mean: Annotated[float, Field(gt=0, lt=1)] | None = None
    sample: int = Field(default=1024, ge=1, le=MOST)

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

    layers: Pattern
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
            units one by one, on images that tune nothing: every eighth one where `network.learn` is `codes`, else mirrored
            ones; `all` joins without trying.
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
    count: Annotated[int, Field(ge=0, le=MOST)] | Literal["auto", "all"] = "auto"
    largest_group: int = Field(default=3, ge=2, le=MOST)
    keep: Literal["better", "all"] = "better"
    joined_steps: Literal["per-unit", "per-group"] = "per-unit"
    joined_start: Literal["continued", "anew"] = "continued"
    loss_steps: float = Field(default=0.25, gt=0, le=1)
    scheme: tuple[Annotated[int, Field(ge=1, le=MOST)], ...] = ()
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
        if () in self.groups:
            raise ValueError(f"group {self.groups.index(()) + 1} names no unit; take it out")
        named = Counter(name for group in self.groups for name in group)
        if named and named.most_common(1)[0][1] > 1:
            raise ValueError(
                f"groups name the unit '{named.most_common(1)[0][0]}' more than once; name it once"
            )
        return self
