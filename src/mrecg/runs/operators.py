"""The operators of a stored graph, by name: functions of tensors and sizes, without side effects.

A graph that somebody else wrote may name any operator. Some of torch's write files (`aten::save`), change global state
(`aten::manual_seed`), draw random numbers (`aten::rand`) or trust their arguments (`aten::_sparse_csr_tensor_unsafe`), so
only what networks compute with is accepted: of torch's operators the core set and those that torch.export keeps for the
layers of networks, of these the ones that return tensors and write into none.
"""

import operator
import re
from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket

from mrecg.errors import RunError
from mrecg.graph.randomness import can_be_repeatable

__all__ = ["is_arithmetic", "named_operator", "operator_name", "takes"]

_NAMESPACES = ("aten", "quantized_decomposed", "torchvision")
_ARITHMETIC: dict[str, Callable[..., Any]] = {
    f"operator.{function.__name__}": function
    for function in (
        *(operator.add, operator.sub, operator.mul, operator.neg),
        *(operator.floordiv, operator.truediv, operator.mod),
    )
} | {
    f"torch.{function.__name__}": function
    for function in (torch.sym_float, torch.sym_int, torch.sym_max, torch.sym_min)
}
"""Operators that sizes may be computed with. Not powers: two small numbers make one that fills the memory."""
_FUNCTIONS = _ARITHMETIC | {"operator.getitem": operator.getitem}
_NAMES = {function: name for name, function in _FUNCTIONS.items()}
_SIZES = ("sym_size", "sym_numel", "sym_stride")
_KEPT_NAMES = """
    linear bilinear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d _convolution
    batch_norm instance_norm layer_norm group_norm rms_norm _weight_norm norm_except_dim
    scaled_dot_product_attention _native_multi_head_attention _transformer_encoder_layer_fwd _trilinear
    lstm.input gru.input rnn_tanh.input rnn_relu.input lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
    dropout feature_dropout alpha_dropout feature_alpha_dropout

    celu glu hardshrink hardsigmoid hardswish log_sigmoid log_softmax logit mish prelu relu6 rrelu selu silu softmax
    softplus softshrink threshold _safe_softmax

    adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    max_pool1d max_pool1d_with_indices max_pool2d max_pool3d max_unpool2d max_unpool3d

    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d
    upsample_trilinear3d _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
    _upsample_bilinear2d_aa _upsample_bicubic2d_aa _upsample_lanczos2d_aa
    affine_grid_generator grid_sampler grid_sampler_3d
    channel_shuffle native_channel_shuffle pixel_shuffle pixel_unshuffle im2col unfold pad _pad_circular _pad_enum
    replication_pad1d

    reshape reshape_as view_as _unsafe_view flatten unflatten ravel squeeze t transpose numpy_T mT mH adjoint
    movedim moveaxis swapaxes swapdims narrow chunk unsafe_chunk split unsafe_split unsafe_split_with_sizes
    tensor_split hsplit vsplit dsplit unbind stack hstack vstack dstack column_stack row_stack concat concatenate
    atleast_1d atleast_2d atleast_3d broadcast_tensors broadcast_to expand_as tile repeat_interleave.self_int
    roll rot90 fliplr flipud diag diag_embed tril triu contiguous detach lift_fresh lift_fresh_copy resolve_conj
    resolve_neg to type_as
    alias_copy detach_copy diagonal_copy expand_copy narrow_copy permute_copy select_copy slice_copy
    split_copy split_with_sizes_copy squeeze_copy t_copy transpose_copy unbind_copy unfold_copy unsqueeze_copy
    view_copy diagonal_scatter

    argsort sort msort masked_fill where take_along_dim index_add index_copy index_fill one_hot meshgrid
    arange linspace eye full_like zeros zeros_like ones ones_like empty_like
    new_empty new_full new_ones new_zeros tril_indices triu_indices fill zero

    matmul einsum addmm baddbmm addbmm addmv addr bmm mm mv dot vdot inner outer ger tensordot chain_matmul kron
    linalg_matmul linalg_multi_dot linalg_vecdot linalg_cross cross cdist cosine_similarity pairwise_distance dist
    norm frobenius_norm linalg_norm linalg_vector_norm linalg_matrix_norm

    absolute negative positive square subtract multiply divide true_divide floor_divide rsub addcmul addcdiv lerp
    float_power remainder clip clamp_min clamp_max fmax fmin max min aminmax maximum minimum
    exp2 erfc erfinv special_expit special_erf special_exp2 special_softmax special_log_softmax sinc xlogy
    logaddexp logaddexp2 logsumexp special_logsumexp logcumsumexp cumprod cummax cummin
    fix frac round sgn heaviside copysign hypot arctan arctan2 arcsin arccos arcsinh arccosh arctanh deg2rad rad2deg
    sum nansum nanmean std std_mean var var_mean all count_nonzero median trace nan_to_num isfinite isclose isneginf
    isposinf greater greater_equal less less_equal not_equal
    __and__ __or__ __xor__ __lshift__ __rshift__ bitwise_and bitwise_or bitwise_xor bitwise_left_shift
    bitwise_right_shift

    complex polar real imag conj conj_physical angle view_as_real view_as_complex view_as_real_copy
    view_as_complex_copy fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn
    fft_rfftn fft_irfftn fft_hfft fft_ihfft fft_fftshift fft_ifftshift fft_fftfreq fft_rfftfreq
"""
"""Operators outside of torch's core set that torch.export keeps when it exports networks: all overloads, or one."""
_KEPT = frozenset(_KEPT_NAMES.split())
_TORCHVISION = {"deform_conv2d", "nms", "ps_roi_align", "ps_roi_pool", "roi_align", "roi_pool"}
_UNCHECKED = re.compile("backward|embedding_bag")
"""Operators of the core set that trust the indices that they are given."""


def operator_name(target: Any) -> str:
    """Return the name of a node's target, such as `aten.conv2d.default`.

    Raises:
        RunError: it is not an operator that a stored graph may hold.
    """
    name = str(target) if isinstance(target, OpOverload) else _NAMES.get(target, "")
    if not name or _known(name) is not target:
        raise RunError(f"The operator {name or target} cannot be stored in a run.")
    return name


def named_operator(name: str) -> Callable[..., Any]:
    """Return the operator of that name.

    Raises:
        RunError: there is none, or a stored graph may not hold it; the sentence is to follow the name of the file.
    """
    found = _known(name)
    if found is None:
        raise RunError(f"its operator {name[:100]!r} is not one that a run may hold")
    return found


def is_arithmetic(function: Callable[..., Any]) -> bool:
    """Return whether the operator computes a number from numbers; given lists, it would repeat them."""
    return function in _ARITHMETIC.values() or (
        isinstance(function, OpOverload) and _packet_name(function) in _SIZES
    )


def takes(function: Callable[..., Any], count: int, names: set[str]) -> bool:
    """Return whether an operator has `count` positional arguments at least, and the named ones."""
    if not isinstance(function, OpOverload):
        return count <= 3 and not names
    arguments = [argument.name for argument in function._schema.arguments]
    return count <= len(arguments) and names <= set(arguments[count:])


def _known(name: str) -> Callable[..., Any] | None:
    return _FUNCTIONS.get(name) or _overload(name)


def _overload(name: str) -> OpOverload[..., Any] | None:
    parts = name.split(".")
    if len(parts) != 3 or parts[0] not in _NAMESPACES or not all(map(str.isidentifier, parts)):
        return None
    packet = getattr(getattr(torch.ops, parts[0]), parts[1], None)
    if not isinstance(packet, OpOverloadPacket) or parts[2] not in packet.overloads():
        return None
    overload = getattr(packet, parts[2])
    return overload if _is_a_function_of_tensors(overload) else None


def _is_a_function_of_tensors(overload: OpOverload[..., Any]) -> bool:
    name, schema = _packet_name(overload), overload._schema
    if name in _SIZES:
        return True
    returned = [str(value.type) for value in schema.returns]
    if schema.is_mutable or not returned or not all("Tensor" in kind for kind in returned):
        return False
    if not can_be_repeatable(overload):
        return False
    if overload.namespace != "aten":
        return overload.namespace != "torchvision" or name in _TORCHVISION
    is_core = torch.Tag.core in overload.tags and not _UNCHECKED.search(name)
    return is_core or bool({name, f"{name}.{overload._overloadname}"} & _KEPT)


def _packet_name(overload: OpOverload[..., Any]) -> str:
    return overload._schema.name.partition("::")[2]
