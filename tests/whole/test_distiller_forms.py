"""Instances and policy arguments as Distiller's published schedules write them: they load, and they act."""

import pytest
import yaml

from compress.errors import ScheduleError
from tests.compress.harness import Run

FORMS = {
    "blocks": """
        pruners:
          it: {class: L1RankedStructureParameterPruner_AGP, initial_sparsity: 0.05, final_sparsity: 0.70,
               group_type: Blocks, kwargs: {block_shape: [1, 8, 1, 1]}, weights: [module.conv2.weight]}
        policies: [{pruner: {instance_name: it}, starting_epoch: 0, ending_epoch: 3, frequency: 1}]
    """,
    "a bare string for weights": """
        pruners:
          it: {class: AutomatedGradualPruner, initial_sparsity: 0.05, final_sparsity: 0.70, weights: module.fc.weight}
        policies: [{pruner: {instance_name: it}, starting_epoch: 0, ending_epoch: 3, frequency: 1}]
    """,
    "filter ranking of 2018": """
        pruners:
          it: {class: 'L1RankedStructureParameterPruner', reg_regims: {'module.conv1.weight': [0.2, '3D']}}
        policies: [{pruner: {instance_name: it}, starting_epoch: 0, ending_epoch: 1, frequency: 1}]
    """,
    "drop-filter": """
        pruners:
          it: {class: BernoulliFilterPruner, desired_sparsity: 0.5, group_type: Filters, weights: [module.conv1.weight]}
        policies:
          - pruner:
              instance_name: it
              args: {mini_batch_pruning_frequency: 16, mask_on_forward_only: True, mask_gradients: True}
            starting_epoch: 0
            ending_epoch: 3
            frequency: 1
    """,
    "random level": """
        pruners:
          it: {class: RandomLevelStructureParameterPruner, sparsity_range: [0.3, 0.5], group_type: Filters,
               weights: [module.conv1.weight]}
        policies:
          - pruner:
              instance_name: it
              args: {mini_batch_pruning_frequency: 16, mask_on_forward_only: True, use_double_copies: True,
                     mask_gradients: True}
            starting_epoch: 0
            ending_epoch: 3
            frequency: 1
    """,
    "network surgery": """
        pruners:
          it: {class: SplicingPruner, low_thresh_mult: 0.9, hi_thresh_mult: 1.1, sensitivity_multiplier: 0.015,
               sensitivities: {module.conv1.weight: 0.05}}
        policies:
          - pruner:
              instance_name: it
              args: {keep_mask: True, mini_batch_pruning_frequency: 1, mask_on_forward_only: True}
            starting_epoch: 0
            ending_epoch: 3
            frequency: 1
    """,
    "network trimming": """
        pruners:
          it: {class: ActivationAPoZRankedFilterPruner_AGP, initial_sparsity: 0.05, final_sparsity: 0.5,
               group_type: Filters, weights: [module.conv1.weight]}
        policies: [{pruner: {instance_name: it}, starting_epoch: 0, ending_epoch: 3, frequency: 1}]
    """,
    "structured sparsity learning": """
        regularizers:
          it: {class: GroupLassoRegularizer, reg_regims: {module.fc.weight: [0.2, 'Rows']},
               threshold_criteria: Mean_Abs}
        policies:
          - regularizer: {instance_name: it, args: {keep_mask: True}}
            starting_epoch: 0
            ending_epoch: 3
            frequency: 1
    """,
}


@pytest.mark.parametrize("form", FORMS)
def test_published_form_loads_and_masks_something(form):
    run = Run(yaml.safe_load(FORMS[form]))
    for epoch in range(3):
        run.epoch(epoch)
    masked = run.scheduler.masks.masked()
    named = set(run.scheduler.scheduled_weights) & {masker.name for masker in masked}
    assert len(named) == 1
    assert run.scheduler.masks[named.pop()].sparsity() > 0


def test_a_class_that_is_needless_here_is_refused_with_what_to_write():
    schedule = yaml.safe_load("""
        quantizers: {it: {class: NCFQuantAwareTrainQuantizer, bits_activations: 8, bits_weights: 8, bits_bias: 32}}
        policies: [{quantizer: {instance_name: it}, starting_epoch: 0, ending_epoch: 300, frequency: 1}]
    """)
    with pytest.raises(ScheduleError, match="NCFQuantAwareTrainQuantizer is refused: .* QuantAwareTrainRangeLinear"):
        Run(schedule)


OF_2018 = """
    quantizers:
      it: {class: QuantAwareTrainRangeLinearQuantizer, bits_activations: 8, bits_weights: 4,
           bits_overrides: {conv1: {acts: 8, wts: 6}, '.*fc': {wts: null}}}
    policies: [{quantizer: {instance_name: it}, starting_epoch: 0, ending_epoch: 300, frequency: 1}]
"""


def test_bits_overrides_of_2018_are_overrides():
    run = Run(yaml.safe_load(OF_2018))
    run.epoch(0)
    assert run.net.conv1.weight_quantizer.bits == 6
    assert not hasattr(run.net.fc, "weight_quantizer")


def test_unknown_keys_of_bits_overrides_are_named():
    with pytest.raises(ScheduleError, match="given 'weights'; bits_overrides of a layer holds acts, wts"):
        Run(yaml.safe_load(OF_2018.replace("wts: 6", "weights: 6")))


def test_windows_that_were_published_load():
    """A frequency longer than the range, a ramp before the window, and a fine-tuning that ends in epoch 200,000."""
    run = Run(
        yaml.safe_load("""
        pruners:
          ranked: {class: L1RankedStructureParameterPruner, reg_regims: {module.conv1.weight: [0.25, '3D']}}
          baidu: {class: BaiduRNNPruner, q: 0.18, ramp_epoch: 2, ramp_slope_mult: 2, weights: [module.fc.weight],
                  initial_sparsity: 0.05, final_sparsity: 0.6}
        lr_schedulers: {lr: {class: StepLR, step_size: 10, gamma: 0.2}}
        policies:
          - {pruner: {instance_name: ranked}, starting_epoch: 0, ending_epoch: 1, frequency: 2}
          - {pruner: {instance_name: baidu}, starting_epoch: 4, ending_epoch: 20, frequency: 1}
          - {lr_scheduler: {instance_name: lr}, starting_epoch: 0, ending_epoch: 200000, frequency: 1}
        """)
    )
    for epoch in (0, 1, 4):
        run.epoch(epoch)
    assert run.scheduler.masks["conv1.weight"].sparsity() == 0.25
    assert run.scheduler.masks["fc.weight"].sparsity() > 0
