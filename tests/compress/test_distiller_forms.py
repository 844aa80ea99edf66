"""Instances and policy arguments as Distiller's published schedules write them: they load, and they act."""

import pytest
import yaml

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
