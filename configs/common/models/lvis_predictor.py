"""LVIS's box predictor (ViTDet, appendix A.2): sigmoid and federated loss, 300 detections per image."""

from detectron2.config import LazyCall as L

from rmae_d2.data.class_weights import FederatedClassWeights

predictor = dict(
    test_score_thresh=0.02,
    test_topk_per_image=300,
    use_sigmoid_ce=True,
    use_fed_loss=True,
    fed_loss_num_classes=50,
    get_fed_loss_cls_weights=L(FederatedClassWeights)(
        names="${dataloader.train.dataset.names}",
        json="${dataloader.train.dataset.json}",
        power=0.5,
    ),
)
