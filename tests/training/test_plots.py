"""Pictures of curves: that they are written, whole, at their size, from the right numbers."""

from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from PIL import Image

from training import plots, verification
from training.config import TrainConfig
from training.curves import by_epoch
from training.dataset import Dataset, Sample
from training.metrics import Evidence
from training.results import EvalResult
from training.schedule import learning_rate

SIZE = (912, 552)  # 7.6 x 4.6 inches
RESULT = EvalResult(
    data="people",
    cmc=tuple(np.linspace(0.5, 1, 50).tolist()),
    mAP=0.6,
    mINP=0.4,
    num_queries=2,
    num_valid_queries=2,
    num_gallery=3,
    far={"0.1": 0.2, "0.01": 0.4, "0.001": 0.41, "0.0001": 0.995},
    margin=0.1,
)


def histogram(mean, *, edges, seed):
    return np.histogram(np.random.default_rng(seed).normal(mean, 0.15, 5_000), edges)[0]


def evidence_of(*, lowest=-1.0, highest=1.0, **changes):
    edges = verification.bin_edges(lowest, highest)
    centre = (lowest + highest) / 2
    evidence = Evidence(
        genuine_B=histogram(centre + 0.3, edges=edges, seed=0),
        impostor_B=histogram(centre - 0.2, edges=edges, seed=1),
        edges=edges,
        is_valid=np.ones(2, bool),
        ap=np.array([1.0, 0.5]),
        first_hit=np.array([1, 2]),
        top_QK=np.array([[0, 1, 2], [2, 1, -1]]),
        norms={"f_t": np.array([20.0, 21.0, 22.0]), "f_i": np.array([5.0, 15.0, 40.0])},
    )
    return replace(evidence, **changes)


@pytest.fixture(name="data")
def data_fixture(tmp_path):
    samples = tuple(Sample(tmp_path / f"{place}.png", pid=place % 3, camid=place) for place in range(5))
    for sample in samples:
        Image.new("RGB", (64, 128), (40 * sample.camid, 90, 90)).save(sample.path)
    return Dataset(tmp_path, (), samples[1:3], samples[2:], 0)


def lines_of(count, **more):
    shown = {"lr": 1e-4, "id_loss": 5.0, "triplet_loss": 1.0, "accuracy": 0.5}
    return [{"epoch": epoch, **shown, **more} for epoch in range(1, count + 1)]


def sizes(paths):
    found = {}
    for path in paths:
        with Image.open(path) as image:
            image.load()
            found[path.name] = image.size
    return found


def line_named(axes, name):
    return next(line for line in axes.lines if line.get_label() == name)


def test_an_evaluation_of_one_valid_query_gives_seven_whole_pictures(tmp_path, data):
    evidence = evidence_of(is_valid=np.array([False, True]))
    drawn = plots.evaluation_pictures(tmp_path / "pictures", RESULT, evidence, data)
    found = sizes(drawn)
    ranks = ["rank_best.png", "rank_worst.png", "rank_random.png"]
    assert list(found) == ["cmc.png", "scores.png", "roc.png", "norms.png", *ranks]
    assert [found[name] for name in ("cmc.png", "scores.png", "roc.png")] == [SIZE] * 3
    assert len({found[name] for name in ranks}) == 1
    assert sorted((tmp_path / "pictures").iterdir()) == sorted(drawn)


@pytest.mark.parametrize("norms", [{}, {"f_i": np.empty(0)}], ids=["none", "empty"])
def test_without_lengths_there_is_no_figure_of_them(norms):
    assert set(plots.evaluation_figures(RESULT, evidence_of(norms=norms))) == {"cmc", "scores", "roc"}


@pytest.mark.parametrize("missing", ["genuine_B", "impostor_B"])
def test_without_pairs_of_a_kind_there_is_no_roc_and_the_rest_is_drawn(missing):
    evidence = evidence_of(**{missing: np.zeros(verification.NUM_BINS, int)})
    assert set(plots.evaluation_figures(RESULT, evidence)) == {"cmc", "scores", "norms"}


def test_no_valid_query_is_refused(tmp_path, data):
    with pytest.raises(ValueError, match="no valid query among 2"):
        plots.evaluation_pictures(tmp_path / "pictures", RESULT, evidence_of(is_valid=np.zeros(2, bool)), data)


def test_the_cmc_is_drawn_in_percent():
    figure = plots.cmc_figure(RESULT)
    assert line_named(figure.axes[0], "CMC").get_ydata() == pytest.approx(np.linspace(50, 100, 50))
    assert "rank-1 50.0 %" in {text.get_text() for text in figure.axes[0].texts}


def test_re_ranked_figures_stand_beside_the_cmc():
    rerank = {"rank1": 0.7, "rank5": 0.8, "rank10": 0.9, "mAP": 0.85, "mINP": 0.6, "k1": 20, "k2": 6, "blend": 0.3}
    figure = plots.cmc_figure(replace(RESULT, rerank=rerank))
    assert line_named(figure.axes[0], "re-ranked: mAP 85.0 %").get_ydata() == pytest.approx([70, 80, 90])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[:2] == ["rank-1 50.0 %", "re-ranked 70.0 %"]
    assert texts[-2:] == ["re-ranked 90.0 %", f"rank-20 {100 * RESULT.cmc[19]:.1f} %"]


def test_a_re_ranked_rank_20_is_drawn_where_it_is_known():
    rerank = {"rank1": 0.7, "rank5": 0.8, "rank10": 0.9, "rank20": 0.95, "mAP": 0.85}
    figure = plots.cmc_figure(replace(RESULT, rerank=rerank))
    assert line_named(figure.axes[0], "re-ranked: mAP 85.0 %").get_xdata().tolist() == [1, 5, 10, 20]


def test_a_cmc_of_zero_and_one_of_a_hundred_are_drawn():
    for share in (0.0, 1.0):
        low, high = plots.cmc_figure(replace(RESULT, cmc=(share,) * 50)).axes[0].get_ylim()
        assert low <= 100 * share < high


def test_the_roc_marks_the_shares_at_its_three_rates():
    evidence = evidence_of()
    evidence = replace(evidence, impostor_B=2 * evidence.impostor_B)
    texts = [text.get_text() for text in plots.roc_figure(RESULT, evidence).axes[0].texts]
    shares = [verification.true_accept_rate(evidence.genuine_B, evidence.impostor_B, rate) for rate in (1e-4, 1e-3, 1e-2)]
    assert texts == [f"{100 * share:.1f} %" for share in shares]


def test_the_roc_rises_to_everything_accepted():
    curve = plots.roc_figure(RESULT, evidence_of()).axes[0].lines[0]
    assert (curve.get_xdata()[0], curve.get_xdata()[-1], curve.get_ydata()[-1]) == (1 / 5_000, 1, 100)
    assert (np.diff(curve.get_ydata()) >= 0).all()


def test_every_threshold_is_drawn_and_close_ones_share_a_name():
    evidence = evidence_of()
    axes = plots.score_figure(RESULT, replace(evidence, impostor_B=2 * evidence.impostor_B)).axes[0]
    texts = ["FAR 10 %: 0.200", "FAR 1 % to 0.1 %\n0.400 to 0.410", "FAR 0.01 %: 0.995"]
    assert [text.get_text() for text in axes.texts] == texts
    assert [line.get_xdata()[0] for line in axes.lines] == [0.2, 0.4, 0.41, 0.995]
    assert axes.get_xlim()[1] > 0.995


def boxes(figure, axis):
    figure.draw_without_rendering()
    return [text.get_window_extent() for text in axis.texts], axis.get_window_extent()


@pytest.mark.parametrize("distance", [0.0, 0.02, 0.06])
def test_the_names_of_thresholds_stay_apart(distance):
    evidence = evidence_of()
    far = {name: 0.9 + place * distance for place, name in enumerate(RESULT.far)}
    figure = plots.score_figure(replace(RESULT, far=far), replace(evidence, impostor_B=2 * evidence.impostor_B))
    names, inside = boxes(figure, figure.axes[0])
    for left, right in pairwise(names):
        assert left.x1 < right.x0
    assert names[-1].x1 <= inside.x1


@pytest.mark.parametrize("mean", [-0.9, 0.0, 0.9])
def test_the_names_of_the_roc_stay_above_its_axis_and_apart(mean):
    edges = verification.bin_edges(-1, 1)
    impostors = 10 * histogram(0.0, edges=edges, seed=1)
    figure = plots.roc_figure(RESULT, evidence_of(genuine_B=histogram(mean, edges=edges, seed=0), impostor_B=impostors))
    names, inside = boxes(figure, figure.axes[0])
    assert len(names) == 3
    assert min(name.y0 for name in names) > inside.y0
    assert min(name.x0 for name in names) > inside.x0
    for left, right in pairwise(names):
        assert left.x1 < right.x0


@pytest.mark.parametrize("shares", [(0.0, 0.3), (0.5, 0.3), (1.0, 1.0)])
def test_the_names_of_the_cmc_stay_inside_and_apart(shares):
    plain, again = shares
    rerank = {"rank1": again, "rank5": again, "rank10": again, "mAP": again}
    figure = plots.cmc_figure(replace(RESULT, cmc=(plain,) * 50, rerank=rerank))
    names, inside = boxes(figure, figure.axes[0])
    assert min(name.y0 for name in names) > inside.y0
    assert not any(one.overlaps(other) for one, other in combinations(names, 2))


def test_euclidean_scores_have_their_name_and_no_threshold():
    result = replace(RESULT, far={}, metric="euclidean")
    axes = plots.score_figure(result, evidence_of(lowest=-40.0, highest=0.0)).axes[0]
    assert axes.get_xlabel() == "minus the Euclidean distance of the pair"
    assert (len(axes.lines), len(axes.texts)) == (0, 0)


def test_norms_carry_mean_deviation_and_variation():
    axes = plots.norm_figure(RESULT, evidence_of()).axes
    texts = [axis.get_legend().get_texts()[0].get_text() for axis in axes]
    assert texts[0] == "$f_t$: mean 21.00, deviation 0.82, C.V. 0.039"
    assert axes[0].get_xlim() == axes[1].get_xlim()


def test_lengths_of_zero_are_drawn():
    assert plots.norm_figure(RESULT, evidence_of(norms={"f_t": np.zeros(3)})).axes[0].get_xlim()[1] > 0


def test_the_schedule_is_drawn_with_and_without_warm_up():
    config = TrainConfig()
    axes = plots.rate_figure({}, config).axes[0]
    rates = [learning_rate(config, epoch) for epoch in range(1, config.epochs + 1)]
    assert line_named(axes, "as configured").get_ydata() == pytest.approx(rates)
    without = line_named(axes, "without warm-up").get_ydata()
    assert without[:11] == pytest.approx([config.lr] * 11)
    assert without[11:] == pytest.approx(rates[11:])


def test_a_schedule_without_warm_up_is_one_curve():
    axes = plots.rate_figure({}, replace(TrainConfig(), warmup_epochs=0)).axes[0]
    assert [line.get_label() for line in axes.lines] == ["as configured"]


def test_the_rates_that_were_logged_are_drawn():
    axes = plots.rate_figure(by_epoch(lines_of(3)), TrainConfig()).axes[0]
    assert line_named(axes, "logged").get_ydata().tolist() == [1e-4] * 3


def test_a_run_of_one_epoch_gives_its_schedule_and_its_losses(tmp_path):
    drawn = plots.training_pictures(tmp_path / "pictures", lines_of(1), TrainConfig())
    assert sizes(drawn) == {"lr.png": SIZE, "losses.png": SIZE}
    assert sorted((tmp_path / "pictures").iterdir()) == sorted(drawn)


def test_a_run_without_a_line_has_a_schedule_only(tmp_path):
    assert [path.name for path in plots.training_pictures(tmp_path, [], TrainConfig(epochs=1))] == ["lr.png"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_epochs_are_whole_and_none_is_shown_that_was_not_run(count):
    columns = by_epoch(lines_of(count))
    for figure in (plots.loss_figure(columns), plots.rate_figure(columns, TrainConfig(epochs=count))):
        axis = figure.axes[0]
        low, high = axis.get_xlim()
        assert [tick for tick in axis.get_xticks() if low <= tick <= high] == list(range(1, count + 1))


def test_crops_are_counted_in_whole_numbers():
    ticks = plots.norm_figure(RESULT, evidence_of()).axes[0].get_yticks()
    assert ticks.tolist() == np.rint(ticks).tolist()


def test_losses_are_drawn_by_epoch_with_accuracy_on_the_right():
    figure = plots.loss_figure(by_epoch(lines_of(4)))
    left, right = figure.axes
    assert line_named(left, "ID loss").get_ydata().tolist() == [5.0] * 4
    assert line_named(left, "triplet loss").get_ydata().tolist() == [1.0] * 4
    assert line_named(right, "accuracy (right)").get_ydata().tolist() == [50.0] * 4


def test_a_center_loss_has_a_panel_of_its_own():
    figure = plots.loss_figure(by_epoch(lines_of(4, center_loss=900.0)))
    drawn = [axis for axis in figure.axes if axis.get_ylabel() == "center loss (unweighted)"]
    assert [axis.lines[0].get_ydata().tolist() for axis in drawn] == [[900.0] * 4]


def test_a_center_loss_that_is_off_is_not_drawn():
    figure = plots.loss_figure(by_epoch(lines_of(4, center_loss=0.0)))
    assert len(figure.axes) == 2


def test_loss_curves_compare_the_necks_loss_by_loss(tmp_path):
    steps = [{"id_loss": 6.0 - place / 100, "triplet_loss": 1.0} for place in range(200)]
    curves = {"Neck3": steps, "BNNeck3": steps[:1], "BNNeck": []}
    assert sizes([plots.loss_curves(tmp_path / "fig8.png", curves)]) == {"fig8.png": (1080, 528)}


@pytest.mark.parametrize("curves", [{}, {"Neck3": []}])
def test_loss_curves_without_an_iteration_are_refused(tmp_path, curves):
    with pytest.raises(ValueError, match="without an iteration"):
        plots.loss_curves(tmp_path / "fig8.png", curves)
