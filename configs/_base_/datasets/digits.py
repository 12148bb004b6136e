"""The handwritten digits inside scikit-learn: 8 x 8 px shown at 16; 1348 to train, 449 held out.

Mean and standard deviation of the training pixels: 77.8 and 95.9.
"""

from openlab.data.datasets.digits import Digits
from openlab.data.samplers import DefaultSampler
from openlab.data.transforms.affine import RandomAffine
from openlab.data.transforms.packing import PackInputs
from openlab.data.transforms.resize import Resize
from openlab.metrics.accuracy import Accuracy

image_size = 16
train_dataloader = dict(
    batch_size=32,
    num_workers=0,  # an item takes far less time than its way between processes
    drop_last=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=Digits,
        split='train',
        pipeline=[
            dict(type=Resize, size=image_size),
            dict(type=RandomAffine, degrees=10, translate=(0.05, 0.05), scale=(0.9, 1.1)),
            dict(type=PackInputs),
        ]))
val_dataloader = dict(
    batch_size=150,
    num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=Digits,
        split='val',
        pipeline=[dict(type=Resize, size=image_size), dict(type=PackInputs)]))
test_dataloader = val_dataloader
val_evaluator = [dict(type=Accuracy, topk=(1, 5))]
