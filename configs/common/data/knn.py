"""k-NN classification with an encoder's features, in pre-training or alone; any folder of class folders."""

from detectron2.config import LazyCall as L

from rmae_d2.data import build_eval_loader
from rmae_d2.data.classification_mapper import ClassificationDatasetMapper, ResizeCenterCrop
from rmae_d2.data.datasets.image_folder import knn_dataset
from rmae_d2.evaluation.knn import KNNEvaluation, KNNEvaluator

knn = L(KNNEvaluation)(
    # Iterations between evaluations; 0 for none.
    period=0,
    loader=L(build_eval_loader)(
        # Without root it is $DETECTRON2_DATASETS/imagenet. query_split=null compares each with the others.
        dataset=L(knn_dataset)(
            root=None,
            bank_split="train",
            query_split="val",
            # Encoding all of ImageNet's training images takes long: 100 per class are about a tenth.
            bank_per_class=100,
            query_per_class=None,
        ),
        mapper=L(ClassificationDatasetMapper)(
            augmentations=[
                L(ResizeCenterCrop)(size="${model.backbone.net.img_size}", crop_share=224 / 256)
            ],
        ),
        batch_size=64,
        num_workers=8,
    ),
    evaluator=L(KNNEvaluator)(k=20, temperature=0.07),
    pool="cls",
    precision="${train.precision}",
)
