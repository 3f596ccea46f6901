"""Every key of ``train`` with its default."""

train = dict(
    output_dir="output",
    # Initial weights, in any format that rmae_d2.checkpoint.load_weights reads. Ignored by --resume.
    init_checkpoint="",
    max_iter=1000,
    # auto: this process's GPU if there is one, else the CPU.
    device="auto",
    # fp32, bf16 or fp16 (autocast), for training and k-NN features; other evaluation uses fp32.
    precision="fp32",
    # With several processes: ddp gives each the whole model (options: train.ddp); fsdp (not with fp16) shards
    # weights, gradients and optimizer state over them, for ViT-L and H.
    parallel="ddp",
    # Compiles kernels for the model: minutes at the first step, faster steps afterwards.
    compile=False,
    # The peak for MFU in the log; 0 times matrix products on the device when the run begins.
    device_tflops=0.0,
    # Micro-batches per optimizer step; dataloader.train.total_batch_size counts all of them.
    grad_accum=1,
    # Recomputes blocks in the backward pass instead of keeping their activations: less memory, for the time
    # of another forward pass.
    activation_checkpointing=False,
    # Maximum gradient norm; 0 for no clipping.
    clip_grad=0.0,
    # Exponential moving average of the weights; 0 for none.
    ema=dict(decay=0.0),
    # Together with iteration and rank, determines every random number.
    seed=0,
    # Unreadable images are skipped and counted; above this share of the data set the run ends.
    max_skipped_fraction=0.01,
    log_period=20,
    # wandb, mlflow or wandb,mlflow: trackers that log the run's values in addition to run.jsonl.
    tracker="",
    # Iterations between reconstruction pictures in TensorBoard; 0 for none.
    vis_period=1000,
    # Iterations between evaluations; 0 for none.
    eval_period=0,
    # An evaluation metric such as bbox/AP: the weights of the best evaluation are kept in model_best.pth.
    # Higher is better, unless its name ends in loss_... or is preceded by "-". Training ends after `patience`
    # evaluations without improvement; 0: never.
    keep_best="",
    patience=0,
    checkpointer=dict(period=1000, max_to_keep=3),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
)
