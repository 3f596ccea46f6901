"""k-NN accuracy on ImageNet-1k of a ViT-B/16's features, without training.

Command:     rmae-d2 train --config-file configs/imagenet/knn_vitb.py --num-gpus 8 --eval-only
             train.init_checkpoint=WEIGHTS (ours, MAE's, timm's or Hugging Face's)
Batch, GPUs: any; features of all images are held in float16 on each GPU, 2 GB.
Published:   nothing known for MAE or R-MAE.
Own images:  dataloader.test.dataset.root=/photos with train/<class>/ and val/<class>/ in it. For a folder of
             class folders without splits add dataloader.test.dataset.bank_split= and
             dataloader.test.dataset.query_split=null: each image is then compared with the others.
Measured:    not run here: ImageNet was not available.
"""

from detectron2.config import LazyCall as L

from rmae_d2.modeling.transfer.classifier import FeatureExtractor

from ..common.data.knn import knn
from ..common.models.classifier_vitb import model as classifier
from .linear_vitb import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/knn_vitb"
model = L(FeatureExtractor)(
    backbone=classifier.backbone,
    pool="cls",
    precision="${train.precision}",
    pixel_mean=classifier.pixel_mean,
    pixel_std=classifier.pixel_std,
)
# This model has no classes of its own.
dataloader.train.dataset.num_classes = None
dataloader.test = knn.loader
dataloader.test.dataset.bank_per_class = None
dataloader.evaluator = knn.evaluator
# Not parts of this config.
del knn, classifier
