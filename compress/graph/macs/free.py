"""Operations that cost no multiply-accumulates: what is neither counted nor listed as left out.

`is_free`, by the table of point-wise operations (`graph/pointwise.py`) and one of names. Element-wise work, reductions,
norms, pooling, resizing, losses and moving elements about cost 0 by definition. An operation in neither
table is unknown, and reports list it.
"""

from __future__ import annotations

import torch
from torch.fx import Node

from compress.graph.pointwise import UNTAGGED, plain_form
from compress.graph.trace import operation_name

MOVES = """
    _mkldnn_reshape _mkldnn_transpose _pack_padded_sequence _pack_sequence _pad_circular _pad_enum _pad_packed_sequence
    _reshape_alias _reshape_from_tensor _shape_as_tensor _stack _unsafe_index _unsafe_index_put _unsafe_masked_index
    _unsafe_view _conj _neg_view _to_copy _chunk_cat adjoint alias argwhere as_strided as_strided_scatter atleast_1d
    atleast_2d atleast_3d block_diag broadcast_tensors broadcast_to cartesian_prod cat channel_shuffle chunk col2im
    coalesce _coalesced to_sparse
    column_stack combinations complex concat concatenate conj constant_pad_nd contiguous clone copy cpu cuda data detach
    diag diag_embed diagflat diagonal diagonal_scatter double dsplit dstack embedding embedding_bag _embedding_bag
    _embedding_bag_forward_only embedding_renorm expand expand_as fill fill_diagonal flatten flatten_dense_tensors flip
    fliplr flipud float gather getitem half bfloat16 hsplit hstack identity im2col imag index index_copy index_fill
    index_put _index_put_impl index_select item lift lift_fresh lift_fresh_copy mH mT masked_fill masked_scatter
    masked_select matrix_H meshgrid moveaxis movedim narrow native_channel_shuffle numpy_T one_hot pad pad_sequence
    permute pin_memory pixel_shuffle pixel_unshuffle put ravel real reflection_pad1d reflection_pad2d reflection_pad3d
    repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape reshape_as resize resize_as
    resolve_conj resolve_neg roll rot90 row_stack scatter select select_scatter set slice slice_scatter slice_inverse
    split split_with_sizes squeeze stack swapaxes swapdims t take take_along_dim tensor_split tile to to_dense to_mkldnn
    to_padded_tensor transpose tril triu type_as unbind unflatten unflatten_dense_tensors unfold unsafe_chunk
    unsafe_split unsafe_split_with_sizes unsqueeze view view_as view_as_complex view_as_real vsplit vstack _unpack_dual
"""
MADE = """
    arange bartlett_window bernoulli binomial blackman_window cauchy empty empty_like empty_permuted empty_strided
    exponential eye fft_fftfreq fft_fftshift fft_ifftshift fft_rfftfreq full full_like geometric hamming_window
    hann_window kaiser_window linspace log_normal logspace multinomial new_empty new_empty_strided new_full new_ones
    new_zeros normal normal_functional ones ones_like poisson rand rand_like randint randint_like randn randn_like
    random randperm range scalar_tensor tensor tril_indices triu_indices uniform zero zeros zeros_like
    _efficientzerotensor _standard_gamma
"""
COMPARES = """
    all allclose any argmax argmin argsort aminmax amax amin bincount bucketize count_nonzero histc histogram isclose
    isin kthvalue max median min mode msort nanmedian nanquantile nonzero nonzero_static quantile searchsorted sort topk
    unique unique_consecutive unique_dim unique_dim_consecutive _unique _unique2 _aminmax cummax cummin equal
"""
REDUCES = """
    cosine_similarity cross_entropy_loss ctc_loss _ctc_loss binary_cross_entropy binary_cross_entropy_with_logits
    cosine_embedding_loss cumprod cumsum cumulative_trapezoid diff dist frobenius_norm gradient hinge_embedding_loss
    huber_loss kl_div l1_loss linalg_vector_norm log_softmax _log_softmax logcumsumexp logsumexp
    margin_ranking_loss mean mse_loss multi_margin_loss multilabel_margin_loss nanmean nansum nll_loss nll_loss2d
    nll_loss_nd nll_loss_forward norm norm_except_dim pairwise_distance poisson_nll_loss prod segment_reduce
    _sparse_sum _sparse_softmax _sparse_log_softmax
    smooth_l1_loss soft_margin_loss softmax _softmax _safe_softmax _masked_softmax special_log_softmax
    special_logsumexp special_softmax std std_mean sum sum_to_size trace trapezoid trapz triplet_margin_loss var
    var_mean renorm index_add index_reduce scatter_add scatter_reduce
"""
NORMS = """
    batch_norm _batch_norm_impl_index _batch_norm_no_update _batch_norm_with_update cudnn_batch_norm
    miopen_batch_norm group_norm instance_norm layer_norm _native_batch_norm_legit _fused_rms_norm
    _native_batch_norm_legit_functional _native_batch_norm_legit_no_training native_batch_norm native_group_norm
    native_layer_norm native_norm rms_norm _weight_norm _weight_norm_interface quantized_batch_norm
"""
POOLS = """
    _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d
    fractional_max_pool2d fractional_max_pool3d lp_pool1d lp_pool2d lp_pool3d max_pool1d max_pool1d_with_indices
    max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices max_unpool2d max_unpool3d
    upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
    upsample_nearest3d upsample_trilinear3d _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_lanczos2d_aa
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d torchvision.nms
    torchvision.roi_pool torchvision.ps_roi_pool
"""
EACH_ELEMENT = """
    _add_relu alpha_dropout chalf degrees dequantize dropout fake_quantize_per_channel_affine
    fake_quantize_per_tensor_affine feature_alpha_dropout feature_dropout fused_moving_avg_obs_fake_quant glu
    int_repr fake_quantize_per_channel_affine_cachemask fake_quantize_per_tensor_affine_cachemask _fused_dropout
    _fake_quantize_learnable_per_channel_affine _fake_quantize_learnable_per_tensor_affine log_sigmoid_forward modf
    native_dropout prelu _prelu_kernel quantize_per_channel _fused_moving_avg_obs_fq_helper
    _fake_quantize_per_tensor_affine_cachemask_tensor_qparams linalg_vander vander quantize_per_tensor
    quantize_per_tensor_dynamic radians rrelu_with_noise rrelu_with_noise_functional special_digamma special_erf
    special_erfc special_erfinv special_exp2 special_expit special_expm1 special_gammainc special_gammaincc
    special_gammaln special_i0 special_log1p special_logit special_multigammaln special_ndtr special_polygamma
    special_psi special_round special_sinc special_xlogy _thnn_fused_gru_cell _thnn_fused_lstm_cell
"""
CHECKS = """
    _assert_async _assert_scalar _assert_tensor_metadata _functional_assert_async _functional_assert_scalar
    _functional_sym_constrain_range _functional_sym_constrain_range_for_size _local_scalar_dense _is_all_true
    _is_any_true _print is_nonzero is_same_size numel size sym_constrain_range sym_constrain_range_for_size sym_numel
    sym_is_contiguous sym_size sym_storage_offset sym_stride stride dim broadcast_shapes result_type requires_grad
    element_size storage_offset
"""
FREE = frozenset(" ".join((MOVES, MADE, COMPARES, REDUCES, NORMS, POOLS, EACH_ELEMENT, CHECKS)).split()) | UNTAGGED
"""Names without the ending of in-place and of copying variants (`_`, `_copy`)."""


def is_free(node: Node) -> bool:
    """Whether an operation is known to cost no multiply-accumulates."""
    target, name = node.target, operation_name(node)
    namespace = getattr(target, "namespace", None)
    if namespace is None:  # a Python function on sizes or on results: operator.mul, operator.getitem, sym_max
        if getattr(target, "__module__", "") == "torch._functorch.predispatch":  # begin and end of vmap and jvp
            return name != "_jvp_increment_nesting"
        return getattr(target, "__module__", "") in ("_operator", "math", "torch.fx.experimental.sym_node", "torch")
    if namespace not in ("aten", "torchvision", "prim"):
        return False
    base = plain_name(name)
    return name in FREE or base in FREE or tagged_pointwise(name) or tagged_pointwise(base)


def plain_name(name: str) -> str:
    """`relu` of `relu_`, `view` of `view_copy`."""
    return plain_form(name).removesuffix("_copy")


def tagged_pointwise(name: str) -> bool:
    """Whether torch says of an ATen operation that it is element-wise."""
    packet = getattr(torch.ops.aten, name, None)
    overloads = packet.overloads() if isinstance(packet, torch._ops.OpOverloadPacket) else []
    return any(torch.Tag.pointwise in getattr(packet, overload).tags for overload in overloads)
