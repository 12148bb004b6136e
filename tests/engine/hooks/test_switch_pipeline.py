from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader, Dataset

from openlab.engine.hooks.switch_pipeline import SwitchPipelineHook, restart_workers
from tests.engine.hooks.small_loop import SmallModel, SmallRunner


class Mosaic:
    def __call__(self, value):
        return value + 100


class Flip:
    def __call__(self, value):
        return -value


class Numbers(Dataset):
    def __init__(self):
        self.pipeline = SimpleNamespace(transforms=[Mosaic(), Flip()])

    def __len__(self):
        return 2

    def __getitem__(self, index):
        value = index
        for transform in self.pipeline.transforms:
            value = transform(value)
        return value


class Wrapped(Dataset):
    def __init__(self):
        self.datasets = [Numbers(), Numbers()]

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.datasets[index // 2][index % 2]


def seen(hook, dataset, epochs=2, workers=0):
    loader = DataLoader(dataset, num_workers=workers, persistent_workers=workers > 0)
    runner = SmallRunner(SmallModel(), [hook], [], max_epochs=epochs)
    runner.train_dataloader = loader
    values = []
    for runner.epoch in range(epochs):
        hook.before_train_epoch(runner)
        values.append([int(v) for v in loader])
    restart_workers(loader)
    return values


def test_named_transforms_go_at_the_epoch_also_inside_wrappers():
    values = seen(SwitchPipelineHook(epoch=1, remove=['Mosaic']), Wrapped())
    assert values == [[-100, -101, -100, -101], [0, -1, 0, -1]]


def test_negative_epochs_count_from_the_end():
    values = seen(SwitchPipelineHook(epoch=-1, pipeline=[Flip()]), Numbers(), epochs=3)
    assert values == [[-100, -101], [-100, -101], [0, -1]]


def test_persistent_workers_get_the_new_pipeline():
    values = seen(SwitchPipelineHook(epoch=1, pipeline=[]), Numbers(), workers=1)
    assert values == [[-100, -101], [0, 1]]


def test_a_resumed_run_switches_at_once():
    hook, dataset = SwitchPipelineHook(epoch=1, remove='Mosaic'), Numbers()
    runner = SmallRunner(SmallModel(), [hook], [], max_epochs=5)
    runner.train_dataloader, runner.epoch = DataLoader(dataset), 3
    hook.before_train_epoch(runner)
    assert [type(t) for t in dataset.pipeline.transforms] == [Flip]


def test_removing_what_is_not_there_is_an_error():
    with pytest.raises(ValueError, match=r'no MixUp in the pipeline \(Mosaic, Flip\)'):
        seen(SwitchPipelineHook(epoch=0, remove=['MixUp']), Numbers())


def test_batch_augmentation_is_switched_off_in_the_preprocessor():
    model = SmallModel()
    model.preprocessor = SimpleNamespace(batch_augments=['mixup'])
    hook = SwitchPipelineHook(epoch=0, batch_augments=False)
    hook.before_train_epoch(SmallRunner(model, [hook], []))
    assert model.preprocessor.batch_augments == []
