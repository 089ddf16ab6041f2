"""The learning rate as one pure function of the epoch."""

from training.config import TrainConfig


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """Returns the learning rate of `epoch` (1-based): linear warm-up, then a factor after each of `decay_epochs`.

    warmup "code", the faithful one, is the released code under the PyTorch of its time: epoch e <= W has the factor
    w + (1 - w) * (e - 1) / W, so the full rate comes in epoch W + 1. "paper" is eq. 1: e / W. From epoch W + 1 on they agree.

    >>> config = TrainConfig()
    >>> [f"{learning_rate(config, epoch):.5g}" for epoch in (1, 2, 10, 11, 40, 41, 70, 71, 120)]
    ['3.5e-06', '3.815e-05', '0.00031535', '0.00035', '0.00035', '3.5e-05', '3.5e-05', '3.5e-06', '3.5e-06']
    >>> printed = TrainConfig(warmup="paper")
    >>> [f"{learning_rate(printed, epoch):.5g}" for epoch in (1, 2, 10, 11, 40, 41)]
    ['3.5e-05', '7e-05', '0.00035', '0.00035', '0.00035', '3.5e-05']
    """
    if epoch < 1:
        raise ValueError(f"epoch: got {epoch}, wanted 1 or more")
    rate = config.lr * config.decay_factor ** sum(epoch > last for last in config.decay_epochs)
    if epoch > config.warmup_epochs:
        return rate
    if config.warmup == "paper":
        return rate * epoch / config.warmup_epochs
    return rate * (config.warmup_factor + (1 - config.warmup_factor) * (epoch - 1) / config.warmup_epochs)


def remarks(config: TrainConfig) -> list[str]:
    """Returns what a shorter run than its schedule should know: that it never leaves the warm-up, or never decays."""
    epochs, last = config.epochs, learning_rate(config, config.epochs)
    if 1 < epochs <= config.warmup_epochs and last < config.lr:
        advice = f"--warmup-epochs {max(1, epochs // 10)} --decay-epochs {max(1, round(epochs * 2 / 3))}"
        return [f"{epochs} epochs end within the warm-up of {config.warmup_epochs}, at a rate of {last:.2g}; try {advice}"]
    if epochs > 1 and config.decay_epochs and min(config.decay_epochs) >= epochs:
        reached = " ".join(map(str, config.decay_epochs))
        advice = " ".join(str(epoch) for epoch in sorted({max(1, epochs // 3), max(1, round(epochs * 0.6))}))
        return [f"{epochs} epochs end before the rate decays (after epochs {reached}); try --decay-epochs {advice}"]
    return []
