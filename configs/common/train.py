"""Every key of ``train`` with its default."""

train = dict(
    output_dir="output",
    # Weights to begin with, in any format of rmae_d2.checkpoint.load_weights. Ignored by --resume.
    init_checkpoint="",
    max_iter=1000,
    # auto: this process's GPU where there is one, else the CPU.
    device="auto",
    # fp32, bf16 or fp16 (autocast). Of training and k-NN's features; other evaluation computes in fp32.
    precision="fp32",
    # Of several processes: ddp gives each the whole model; fsdp (not with fp16) shards weights,
    # gradients and optimizer state over them, for ViT-L and H. See train.ddp for the first one's options.
    parallel="ddp",
    # Kernels made for the model, at the first step: minutes there, faster steps afterwards.
    compile=False,
    # What MFU in the log is a share of; 0 times matrix products on the device as the run begins.
    device_tflops=0.0,
    # Micro-batches an optimizer step; dataloader.train.total_batch_size counts all of them.
    grad_accum=1,
    # Compute blocks again in the backward pass rather than keep what they computed: less memory, for the time
    # of another forward pass.
    activation_checkpointing=False,
    # Largest gradient norm; 0 for no clipping.
    clip_grad=0.0,
    # Exponential moving average of the weights; 0 for none.
    ema=dict(decay=0.0),
    # With the iteration and the rank it determines every random number.
    seed=0,
    # Unreadable images are skipped and counted; past this share of the data set the run ends.
    max_skipped_fraction=0.01,
    log_period=20,
    # wandb, mlflow or wandb,mlflow: trackers that show the run's values beside run.jsonl.
    tracker="",
    # Iterations between two reconstruction pictures in TensorBoard; 0 for none.
    vis_period=1000,
    # Iterations between two evaluations; 0 for none.
    eval_period=0,
    # A metric of the evaluations, such as bbox/AP: the best one's weights are kept in model_best.pth. Higher
    # is better, unless its name ends in loss_..., or a "-" stands before it. Training ends when as many
    # evaluations as patience gave nothing better; 0: never.
    keep_best="",
    patience=0,
    checkpointer=dict(period=1000, max_to_keep=3),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
)
