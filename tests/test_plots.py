"""Figures: missing numbers, small and odd tables, what is refused, and SVG that can stand on a page."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from io import BytesIO
from itertools import combinations

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import rc_context
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex

from prompt_transferability.plots import (
    TYPE_COLORS,
    figure_svg,
    plot_correlation,
    plot_curves,
    plot_layers,
    plot_methods,
    plot_neurons,
    plot_similarity,
    plot_summary,
    plot_transfer,
)
from prompt_transferability.tasks import PAPER_TASKS, UnknownNameError

TYPES = {"sst2": "SA", "imdb": "SA", "snli": "NLI", "qqp": "PI"}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def matrix():
    """Columns and rows in different orders, the types mixed."""
    rows = {
        "imdb": [0.80, 0.33, 0.52, 0.88],
        "random": [0.50, 0.34, 0.51, 0.49],
        "snli": [0.52, 0.70, 0.55, 0.51],
        "sst2": [0.90, 0.32, 0.53, 0.81],
        "qqp": [0.51, 0.41, 0.77, 0.54],
    }
    return pd.DataFrame(rows, index=["sst2", "snli", "qqp", "imdb"]).T


@pytest.fixture
def curves():
    rows = [
        (task, seed, step, 0.5 + 0.001 * step + 0.01 * seed)
        for task in TYPES
        for seed in (0, 1)
        for step in range(0, 300 if seed else 200, 100)
    ]
    return pd.DataFrame(rows, columns=["task", "seed", "step", "accuracy"])


@pytest.fixture
def table():
    return pd.DataFrame({"accuracy": 0.8, "low": 0.78, "high": 0.82, "random": 0.5, "majority": 0.52}, index=[*TYPES])


@pytest.fixture
def similarity():
    """Of the tasks, in another order than that of the types; cosines may be negative."""
    names = ["qqp", "sst2", "snli", "imdb"]
    values = [[1, 0.12, 0.31, 0.08], [0.12, 1, 0.05, 0.62], [0.31, 0.05, 1, -0.11], [0.08, 0.62, -0.11, 1]]
    return pd.DataFrame(values, names, names)


@pytest.fixture
def profile():
    kinds = {"same task": 0.9, "same type": 0.7, "different type": 0.5, "different task": 0.55}
    rows = {
        (layer, kind): {"mean": mean - 0.02 * i, "low": mean - 0.1, "high": mean + 0.1}
        for i, layer in enumerate(("1-3", "4-6", "7", "8"))
        for kind, mean in kinds.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def texts(figure):
    """What a reader of the SVG reads, in the order of drawing."""
    return [text.text for text in ElementTree.fromstring(figure_svg(figure)).iter(f"{SVG}text")]


def cells(figure):
    """The printed numbers by row and column, as placed."""
    numbers = [text for text in figure.axes[0].texts if text.get_text().isdigit()]
    return {
        (np.floor(text.get_position()[1] + 0.01), np.floor(text.get_position()[0])): text.get_text() for text in numbers
    }


def colors(figure):
    """Color of each cell by row and column, None where it is hatched."""
    found = {}
    for patch in figure.axes[0].patches:
        if patch.get_facecolor()[3]:
            place = np.floor(patch.get_y() + 0.01), np.floor(patch.get_x())
            found[place] = None if patch.get_hatch() else to_hex(patch.get_facecolor())
    return found


# ---------------------------------------------------------------- the transfer matrix


def test_tasks_are_grouped_by_type_and_sources_follow_the_targets(matrix):
    axes = plot_transfer(matrix, TYPES).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["SST-2", "IMDB", "SNLI", "QQP"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["SST-2", "IMDB", "SNLI", "QQP", "random"]
    assert [label.get_color() for label in axes.get_xticklabels()] == [TYPE_COLORS[kind] for kind in TYPES.values()]
    assert [label.get_color() for label in axes.get_yticklabels()][:4] == [TYPE_COLORS[kind] for kind in TYPES.values()]


def test_every_number_stands_in_its_cell(matrix):
    found = cells(plot_transfer(matrix, TYPES))
    order = ["sst2", "imdb", "snli", "qqp"]
    for row, source in enumerate([*order, "random"]):
        for column, target in enumerate(order):
            assert found[row, column] == f"{100 * matrix.at[source, target]:.0f}"


def test_other_rows_stand_apart(matrix):
    positions = plot_transfer(matrix, TYPES).axes[0].get_yticks()
    gaps = np.diff(positions)
    assert gaps[:-1] == pytest.approx(1) and gaps[-1] > 1.2


def test_diagonal_is_outlined(matrix):
    patches = plot_transfer(matrix, TYPES).axes[0].patches
    outlined = [patch.get_xy() for patch in patches if not patch.get_facecolor()[3]]
    assert outlined == [(0, 0), (1, 1), (2, 2), (3, 3)]


@pytest.mark.parametrize("scale", ["accuracy", "recovered"])
def test_missing_numbers_stay_blank(matrix, scale):
    matrix.loc["imdb", "snli"] = np.nan
    figure = plot_transfer(matrix, TYPES, scale=scale)
    assert (1, 2) not in cells(figure) and (1, 2) not in colors(figure)
    assert len(cells(figure)) == len(colors(figure)) == 19
    assert "nan" not in figure_svg(figure).lower()


def test_a_matrix_without_numbers_is_drawn(matrix):
    assert cells(plot_transfer(matrix * np.nan, TYPES)) == {}


def test_one_task_only(matrix):
    assert cells(plot_transfer(matrix.loc[["sst2"], ["sst2"]], TYPES)) == {(0, 0): "90"}


def test_rows_that_are_no_tasks_only(matrix):
    figure = plot_transfer(matrix.loc[["random"]], TYPES)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["random"]


def test_recovered_colors_compare_across_columns(matrix):
    found = colors(plot_transfer(matrix, TYPES, scale="recovered"))
    assert len({found[i, i] for i in range(4)}) == 1
    assert len({found[4, i] for i in range(4)}) == 1
    assert found[0, 2] == found[4, 2]  # below the random prompt is no worse than it
    assert len({found[i, 0] for i in range(5)}) == 5


def test_recovered_hatches_what_tuning_did_not_learn(matrix):
    matrix.loc["qqp", "qqp"] = 0.525  # 1.5 points above random
    assert {
        place for place, color in colors(plot_transfer(matrix, TYPES, scale="recovered")).items() if color is None
    } == {(row, 3) for row in range(5)}
    assert None not in colors(plot_transfer(matrix, TYPES, scale="recovered", min_gain=0.01)).values()
    noisy = plot_transfer(matrix, TYPES, scale="recovered", min_gain=pd.Series(np.inf, matrix.columns))
    assert set(colors(noisy).values()) == {None} and "in noise" in noisy.axes[1].get_xlabel()


def test_recovered_hatches_what_was_not_tuned_or_got_worse(matrix):
    without = colors(plot_transfer(matrix.drop("qqp"), TYPES, scale="recovered"))
    matrix.loc["qqp", "qqp"] = matrix.loc["random", "qqp"]
    worse = colors(plot_transfer(matrix, TYPES, scale="recovered", min_gain=0))
    for found in (without, worse):
        assert all((color is None) == (column == 3) for (_, column), color in found.items())


def test_recovered_says_what_its_colors_are(matrix):
    assert "5 points" in plot_transfer(matrix, TYPES, scale="recovered").axes[1].get_xlabel()
    assert plot_transfer(matrix, TYPES).axes[1].get_xlabel() == "accuracy"


def test_another_row_can_be_the_random_one(matrix):
    found = colors(
        plot_transfer(matrix.rename(index={"random": "uniform"}), TYPES, random_row="uniform", scale="recovered")
    )
    assert found == colors(plot_transfer(matrix, TYPES, scale="recovered"))


def test_cells_keep_their_size(matrix):
    sizes = []
    for names in (matrix, matrix.rename(index={"random": "a rather long name of a row"})):
        figure = plot_transfer(names, TYPES)
        sizes.append(figure.axes[0].get_window_extent().size / figure.dpi)
    assert sizes[0] == pytest.approx(sizes[1], abs=0.05)


def test_matrix_that_is_refused(matrix):
    with pytest.raises(ValueError, match="the row 'random', which the matrix lacks"):
        plot_transfer(matrix.drop("random"), TYPES, scale="recovered")
    with pytest.raises(UnknownNameError, match="unknown scale 'recoverd'; did you mean 'recovered'"):
        plot_transfer(matrix, TYPES, scale="recoverd")
    with pytest.raises(ValueError, match="one is 80; divide percentages by 100"):
        plot_transfer(100 * matrix, TYPES)
    with pytest.raises(ValueError, match="no rows or no columns"):
        plot_transfer(matrix.iloc[:0], TYPES)
    with pytest.raises(ValueError, match="names a row or a column twice"):
        plot_transfer(matrix.rename(index={"imdb": "sst2"}), TYPES)
    with pytest.raises(ValueError, match="task 'qqp' has no type; .* SA, NLI, EJ, PI"):
        plot_transfer(matrix, {"sst2": "SA", "imdb": "SA", "snli": "NLI"})


@pytest.mark.parametrize("draw", ["matrix", "curves", "table"])
def test_unknown_type_is_refused(request, draw):
    plot = {"matrix": plot_transfer, "curves": plot_curves, "table": plot_summary}[draw]
    with pytest.raises(UnknownNameError, match="unknown task type 'sa'; did you mean 'SA'"):
        plot(request.getfixturevalue(draw), {**TYPES, "sst2": "sa"})


# ---------------------------------------------------------------- similarity


def test_similarities_are_grouped_by_type_and_printed(similarity):
    figure = plot_similarity(similarity, TYPES)
    order = ["sst2", "imdb", "snli", "qqp"]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["SST-2", "IMDB", "SNLI", "QQP"] == [x.get_text() for x in figure.axes[0].get_xticklabels()]
    printed = [text.get_text() for text in figure.axes[0].texts][:16]
    assert printed == [f"{100 * similarity.at[row, column]:.0f}" for row in order for column in order]
    assert not figure.axes[0].get_xlabel() and not figure.axes[0].get_ylabel()


def test_colors_follow_the_other_prompts(similarity):
    "A prompt with itself takes the darkest color, and no part of the scale."
    figure = plot_similarity(similarity, TYPES)
    found = colors(figure)
    assert found[0, 0] == found[3, 3] == found[0, 1]  # SST-2 and IMDB are the most alike
    assert len({*found.values()}) == 6
    assert figure.axes[1].get_xlim() == (-0.11, 0.62)


def test_small_differences_get_a_decimal(similarity):
    printed = texts(plot_similarity(similarity / 10 + 0.9 * np.eye(4), TYPES))
    assert {"-1.1", "6.2", "100.0"} <= {text.replace("−", "-") for text in printed}


def test_odd_matrices_of_similarities(similarity):
    assert "100" in texts(plot_similarity(similarity.loc[["qqp"], ["qqp"]], TYPES))
    plot_similarity(similarity * 0 + 1, TYPES)
    without_self = similarity.mask(np.eye(4, dtype=bool))
    assert "nan" not in figure_svg(plot_similarity(without_self, TYPES)).lower()


def test_layers_are_lines_that_color_is_not_needed_for(profile):
    figure = plot_layers(profile)
    axes = figure.axes[0]
    assert [line.get_label() for line in axes.lines] == ["same task", "same type", "different type"]
    assert len({(line.get_linestyle(), line.get_marker()) for line in axes.lines}) == 3
    assert np.diff([gray(line.get_color()[:3]) for line in axes.lines]).min() > 10
    assert axes.lines[1].get_ydata() == pytest.approx([0.7, 0.68, 0.66, 0.64])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1-3", "4-6", "7", "8"]
    without_types = plot_layers(profile.drop(["same type", "different type"], level=1))
    assert [line.get_label() for line in without_types.axes[0].lines] == ["same task", "different task"]


def test_a_layer_without_an_interval_is_drawn(profile):
    profile.loc[("7", "same task"), ["low", "high"]] = np.nan
    assert "nan" not in figure_svg(plot_layers(profile)).lower()


def panel(figure, title):
    (axes,) = [axes for axes in figure.axes if axes.get_title(loc="left") == title]
    return axes


def test_a_panel_a_target_and_a_point_a_source(similarity, matrix):
    figure = plot_correlation(similarity, matrix, TYPES)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["SST-2", "IMDB", "SNLI", "QQP"]
    points = np.concatenate([drawn.get_offsets() for drawn in panel(figure, "SNLI").collections])
    expected = [(similarity.at[name, "snli"], matrix.at[name, "snli"]) for name in ("sst2", "imdb", "qqp")]
    assert np.allclose(sorted(points.tolist()), sorted(expected))
    marks = {drawn.get_paths()[0].vertices.tobytes() for drawn in panel(figure, "SNLI").collections}
    assert len(marks) == 4  # one a type
    assert [text.get_text() for text in figure.legends[0].texts] == [
        "sentiment analysis",
        "natural language inference",
        "paraphrase identification",
    ]


def test_correlations_stand_in_the_panels(similarity, matrix):
    rhos = pd.DataFrame({"rho": [0.5, -0.25, np.nan, 1]}, index=["sst2", "snli", "qqp", "imdb"])
    figure = plot_correlation(similarity, matrix, TYPES, rhos)
    written = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert written == [["ρ = 0.50"], ["ρ = 1.00"], ["ρ = -0.25"], []]


def test_words_above_the_panels_do_not_touch():
    "Not those of one panel, and not those of neighbors, however long a task is called."
    names = [f"micro/{name}" for name in PAPER_TASKS][:-2] + ["ethics_deontology_2", "a_task_of_mine_with_a_long_name"]
    kinds = dict.fromkeys(names, "SA")
    values = pd.DataFrame(np.random.default_rng(0).random((13, 13)), names, names)
    figure = plot_correlation(values, values, kinds, pd.DataFrame({"rho": -0.88}, index=names))
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for axes in figure.axes for text in (axes._left_title, *axes.texts)]
    assert len(boxes) == 26
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_similarities_that_are_refused(similarity, matrix, profile):
    with pytest.raises(ValueError, match="the same names in rows and columns"):
        plot_similarity(similarity.iloc[1:], TYPES)
    with pytest.raises(ValueError, match="the same names in rows and columns"):
        plot_similarity(similarity.iloc[:0, :0], TYPES)
    with pytest.raises(ValueError, match=r"fractions in \[-1, 1\], one is -11; divide percentages by 100"):
        plot_similarity(100 * similarity.clip(upper=0), TYPES)
    with pytest.raises(ValueError, match="task 'qqp' has no type"):
        plot_similarity(similarity, {name: TYPES[name] for name in ("sst2", "snli", "imdb")})
    with pytest.raises(ValueError, match="lacks low; it needs the columns mean, low, high"):
        plot_layers(profile.drop(columns="low"))
    with pytest.raises(ValueError, match="no rows"):
        plot_layers(profile.iloc[:0])
    with pytest.raises(ValueError, match="divide percentages by 100"):
        plot_layers(100 * profile)
    with pytest.raises(ValueError, match="the similarity matrix lacks qqp; it must have all sources and targets"):
        plot_correlation(similarity.drop("qqp"), matrix, TYPES)
    with pytest.raises(ValueError, match="the similarity matrix lacks qqp"):
        plot_correlation(similarity.drop(columns="qqp"), matrix, TYPES)
    with pytest.raises(ValueError, match="divide percentages by 100"):
        plot_correlation(similarity, 100 * matrix, TYPES)


# ---------------------------------------------------------------- curves


def lines(axes):
    return [line for line in axes.lines if line.get_linestyle() == "-"]


def test_a_panel_a_task_in_the_given_order(curves):
    figure = plot_curves(curves, TYPES)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["SST-2", "IMDB", "SNLI", "QQP"]
    assert [axes.title.get_color() for axes in figure.axes] == ["#1d2730"] * 4  # the centered title is empty
    assert len({axes.get_xlim() for axes in figure.axes}) == len({axes.get_ylim() for axes in figure.axes}) == 1


def test_mean_ends_with_the_first_seed(curves):
    first, second, mean = lines(plot_curves(curves, TYPES).axes[0])
    assert [*first.get_xdata()] == [0, 100] and [*second.get_xdata()] == [0, 100, 200]
    assert [*mean.get_xdata()] == [0, 100] and mean.get_ydata() == pytest.approx([0.505, 0.605])
    assert mean.get_linewidth() > first.get_linewidth()


def test_one_run_is_drawn_once(curves):
    figure = plot_curves(curves[(curves["seed"] == 0) & (curves["task"] == "sst2")], TYPES)
    assert len(figure.axes) == 1 and len(lines(figure.axes[0])) == 1
    assert [text.get_text() for text in figure.legends[0].texts] == ["tuned prompt"]


def test_missing_accuracies_are_left_out(curves):
    curves.loc[(curves["task"] == "sst2") & (curves["step"] == 100), "accuracy"] = np.nan
    assert "nan" not in figure_svg(plot_curves(curves, TYPES)).lower()


def test_reference_is_drawn_where_it_is_given(curves):
    figure = plot_curves(curves, TYPES, reference={"snli": 0.34})
    dotted = [[line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":"] for axes in figure.axes]
    assert dotted == [[], [], [0.34], []]
    assert [text.get_text() for text in figure.legends[0].texts] == ["one seed", "mean of the seeds", "majority class"]


def test_other_curves_stand_beside_in_dashed_gray_where_there_are_any(curves):
    beside = curves[curves["task"] == "sst2"].assign(accuracy=0.4)
    figure = plot_curves(curves, TYPES, baseline=beside, baseline_name="from random vectors")
    dashed = [[line for line in axes.lines if line.get_linestyle() == "--"] for axes in figure.axes]
    assert [len(found) for found in dashed] == [3, 0, 0, 0] and set(dashed[0][-1].get_ydata()) == {0.4}
    assert [len(lines(axes)) for axes in figure.axes] == [len(lines(axes)) for axes in plot_curves(curves, TYPES).axes]
    assert [text.get_text() for text in figure.legends[0].texts][-1] == "from random vectors"
    with pytest.raises(ValueError, match="divide percentages by 100"):
        plot_curves(curves, TYPES, baseline=beside.assign(accuracy=80))


def test_a_title_says_whose_curves_they_are_to_eyes_and_ears(curves):
    beside = curves.assign(accuracy=0.4)
    plain = figure_svg(plot_curves(curves, TYPES))
    for name in ("plot_curves", "plot_methods"):
        draw = {"plot_curves": plot_curves, "plot_methods": plot_methods}[name]
        svg = figure_svg(draw(curves.assign(method="prompt"), TYPES, title="micro-bert, not RoBERTa"))
        assert svg.count("micro-bert, not RoBERTa") == 2  # above the panels, and in what is read aloud
        assert 'aria-label="micro-bert, not RoBERTa. Accuracy on dev by' in svg
    assert 'aria-label="Accuracy on dev by training step' in plain
    legend = plot_curves(curves, TYPES, baseline=beside, baseline_name="from random vectors", name="from another task")
    words = [text.get_text() for text in legend.legends[0].texts]
    assert words == ["one seed", "from another task, mean of the seeds", "from random vectors"]


def test_training_losses_are_drawn_from_the_first_that_there_is(curves):
    "No training has led to the first evaluation."
    loss = curves["step"].where(curves["step"] > 0) / 100
    figure = plot_curves(curves.assign(loss=loss), TYPES, shows="loss")
    assert figure.get_supylabel() == "training loss" and "Training loss" in figure.get_label()
    steps = sorted(set(curves["step"]))
    assert list(lines(figure.axes[0])[1].get_xdata()) == steps[1:]  # of the second seed
    assert not any("%" in text.get_text() for axes in figure.axes for text in axes.get_yticklabels())


@pytest.mark.parametrize("tasks", [1, 4, 5, 8, 9, 13])
def test_lowest_panels_show_the_steps(curves, tasks):
    curve = curves[curves["task"] == "sst2"]
    names = [f"task {i}" for i in range(tasks)]
    figure = plot_curves(pd.concat([curve.assign(task=name) for name in names]), dict.fromkeys(names, "SA"))
    assert len(figure.axes) == tasks
    across = sum(axes.get_subplotspec().is_first_row() for axes in figure.axes)
    shown = [bool(axes.xaxis.get_tick_params()["labelbottom"]) for axes in figure.axes]
    assert shown == [i + across >= tasks for i in range(tasks)]


def test_curves_that_are_refused(curves):
    with pytest.raises(ValueError, match="lacks seed, step; it needs the columns task, seed, step, accuracy"):
        plot_curves(curves[["task", "accuracy"]], TYPES)
    with pytest.raises(ValueError, match="no rows"):
        plot_curves(curves.iloc[:0], TYPES)
    with pytest.raises(ValueError, match="divide percentages by 100"):
        plot_curves(curves.assign(accuracy=80), TYPES)
    with pytest.raises(ValueError, match="shares of the majority class .* one is 51"):
        plot_curves(curves, TYPES, reference={"sst2": 51})
    with pytest.raises(ValueError, match="two accuracies of one task, seed and step"):
        plot_curves(curves.assign(seed=0), TYPES)
    with pytest.raises(ValueError, match="task 'sst2' has no type"):
        plot_curves(curves, {})


# ---------------------------------------------------------------- the summary


def test_summary_is_grouped_by_type(table):
    figure = plot_summary(table.loc[["qqp", "sst2", "snli"]], TYPES)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "sentiment analysis",
        "SST-2",
        "natural language inference",
        "SNLI",
        "paraphrase identification",
        "QQP",
    ]


def test_summary_of_one_task_without_interval_and_baselines(table):
    figure = plot_summary(table.loc[["qqp"]].assign(low=np.nan, high=np.nan, random=np.nan, majority=np.nan), TYPES)
    assert "QQP" in texts(figure) and "nan" not in figure_svg(figure).lower()


def test_interval_may_miss_one_by_a_rounding_error(table):
    plot_summary(table.assign(high=1 + 1e-15), TYPES)


def test_summary_that_is_refused(table):
    with pytest.raises(ValueError, match="lacks low, high"):
        plot_summary(table.drop(columns=["low", "high"]), TYPES)
    with pytest.raises(ValueError, match="no rows"):
        plot_summary(table.iloc[:0], TYPES)
    with pytest.raises(ValueError, match="divide percentages by 100"):
        plot_summary(100 * table, TYPES)
    with pytest.raises(ValueError, match="names a task twice"):
        plot_summary(pd.concat([table, table]), TYPES)
    with pytest.raises(ValueError, match="task 'sst2' has no type"):
        plot_summary(table, {})


# ---------------------------------------------------------------- neurons


@pytest.fixture
def states():
    """Types mixed, in two layers of 100 neurons: in the first all agree, in the second sentiment is apart."""
    draw = np.random.default_rng(0)
    first, second = draw.random(100) < 0.5, {kind: draw.random(100) < 0.5 for kind in ("SA", "other")}
    return {name: np.stack([first, second["SA" if TYPES[name] == "SA" else "other"]]) for name in ("qqp", *TYPES)}


def test_neurons_stand_in_one_order_in_all_panels(states):
    figure = plot_neurons(states, TYPES, bins=20)
    names = [axes.get_title(loc="left") for axes in figure.axes[:4]]
    assert names == ["SST-2", "IMDB", "SNLI", "QQP"]
    cells = [axes.images[0].get_array() for axes in figure.axes[:4]]
    assert all(image.shape == (2, 20) for image in cells)
    assert all((image[0] == cells[0][0]).all() for image in cells) and (np.diff(cells[0][0]) <= 0).all()
    assert (cells[0][1] == cells[1][1]).all() and (cells[0][1] != cells[2][1]).any()
    assert cells[0].mean() == pytest.approx(states["sst2"].mean(), abs=1e-9)


def test_neurons_that_prompts_share(states):
    (image,) = plot_neurons(states, TYPES, shows="shared").axes[0].images
    shares = np.asarray(image.get_array())
    assert shares.shape == (2, 5) and shares.sum(1) == pytest.approx(1)
    assert shares[0, [0, 4]].sum() == pytest.approx(1) and shares[1, 2] > 0.3


def test_where_types_part(states):
    lines = {line.get_label(): line for line in plot_neurons(states, TYPES, shows="types").axes[0].lines}
    apart = (states["sst2"][1] != states["snli"][1]).mean()
    assert lines["sentiment analysis"].get_ydata() == pytest.approx([0, apart])
    assert "by chance" in lines


def test_neurons_of_a_model_with_fewer_than_the_columns(states):
    assert plot_neurons(states, TYPES, bins=500).axes[0].images[0].get_array().shape == (2, 100)


def test_neurons_that_are_refused(states):
    with pytest.raises(UnknownNameError, match="unknown picture of neurons 'state'; did you mean 'states'"):
        plot_neurons(states, TYPES, shows="state")
    with pytest.raises(ValueError, match="bins is 0"):
        plot_neurons(states, TYPES, bins=0)
    with pytest.raises(ValueError, match=r"one model; got float64 \[2, 100\]"):
        plot_neurons({name: state * 1.0 for name, state in states.items()}, TYPES)
    with pytest.raises(ValueError, match=r"bool \[1, 100\], bool \[2, 100\]"):
        plot_neurons(states | {"qqp": states["qqp"][:1]}, TYPES)
    with pytest.raises(ValueError, match="got none"):
        plot_neurons({}, TYPES)
    with pytest.raises(ValueError, match="task 'sst2' has no type"):
        plot_neurons(states, {"qqp": "PI"})
    with pytest.raises(ValueError, match="all prompts are of type SA"):
        plot_neurons({name: states[name] for name in ("sst2", "imdb")}, TYPES, shows="types")


# ---------------------------------------------------------------- SVG


@pytest.fixture(params=["matrix", "curves", "table", "similarity", "profile", "correlation", "states"])
def draw(request):
    """A function that draws one of the figures anew."""
    if request.param == "profile":
        return lambda: plot_layers(request.getfixturevalue("profile"))
    if request.param == "correlation":
        tables = [request.getfixturevalue(name) for name in ("similarity", "matrix")]
        return lambda: plot_correlation(*tables, TYPES)
    plots = {"matrix": plot_transfer, "curves": plot_curves, "table": plot_summary, "similarity": plot_similarity}
    plots |= {"states": plot_neurons}
    return lambda: plots[request.param](request.getfixturevalue(request.param), TYPES)


def test_svg_is_the_same_every_time(draw):
    figure = draw()
    assert figure_svg(figure) == figure_svg(figure) == figure_svg(draw())


def test_svg_does_not_depend_on_what_was_drawn_before(draw):
    figure = draw()
    figure.savefig(BytesIO(), format="png", dpi=50)
    assert figure_svg(figure) == figure_svg(draw())


SCRIPT = """
import sys
import pandas as pd
from prompt_transferability.plots import figure_svg, plot_transfer
print(figure_svg(plot_transfer(pd.DataFrame({"sst2": [0.9, 0.5]}, index=["sst2", "random"]), {"sst2": "SA"})))
print("matplotlib.pyplot" in sys.modules)
"""


def test_another_process_draws_the_same_and_never_loads_pyplot():
    matrix = pd.DataFrame({"sst2": [0.9, 0.5]}, index=["sst2", "random"])
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout == figure_svg(plot_transfer(matrix, {"sst2": "SA"})) + "\nFalse\n"


def test_svg_names_neither_machine_nor_time(draw):
    svg = figure_svg(draw())
    assert not re.search(r"/(home|root|tmp|usr|work|Users|var)\b|file:|\b20\d\d-\d\d-\d\d\b", svg)
    assert set(re.findall(r"https?://[^\"]+", svg)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_svg_keeps_text_as_text(matrix):
    words = texts(plot_transfer(matrix, TYPES, title="Base & <small>"))
    assert {"Base & <small>", "SST-2", "random", "90", "accuracy"} <= set(words)


def test_svgs_stand_on_one_page(matrix, curves, table):
    page = [
        figure_svg(figure)
        for figure in (
            plot_transfer(matrix, TYPES),
            plot_transfer(matrix.T.T * 0.9, TYPES),
            plot_curves(curves, TYPES),
            plot_summary(table, TYPES),
        )
    ]
    found = [name for svg in page for name in re.findall(r'\bid="([^"]+)"', svg)]
    assert len(found) == len(set(found))
    for svg in page:
        own = set(re.findall(r'\bid="([^"]+)"', svg))
        used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg)
        assert used and {a or b for a, b in used} <= own
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img" and root.get("aria-label") and "max-width: 100%" in root.get("style")
        (sheet,) = root.iter(f"{SVG}style")
        assert sheet.text.startswith(f"#{root.get('id')} ")


def settings():
    """Matplotlib's settings, but for the backend: looking at it is what chooses one."""
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}


def test_settings_are_left_as_they_were_and_do_not_matter(draw):
    expected = figure_svg(draw())
    with rc_context({"font.size": 30, "axes.grid": True, "svg.fonttype": "path", "lines.linewidth": 9}):
        before = settings()
        assert figure_svg(draw()) == expected
        assert settings() == before


# ---------------------------------------------------------------- colors


def gray(color):
    """Lightness L* of a color, as gray print shows it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in matplotlib.colors.to_rgb(color)]
    return 116 * np.dot([0.2126, 0.7152, 0.0722], linear) ** (1 / 3) - 16


def test_type_colors_stay_apart_in_gray():
    assert np.diff(sorted(map(gray, TYPE_COLORS.values()))).min() > 6


def test_cells_darken_evenly_in_gray(matrix):
    (bar,) = [drawn for drawn in plot_transfer(matrix, TYPES).axes[1].collections if isinstance(drawn, QuadMesh)]
    lightness = [gray(color) for color in bar.cmap.colors]
    assert np.diff(lightness) == pytest.approx((lightness[-1] - lightness[0]) / 100, rel=0.1)
    assert lightness[0] > 95 and lightness[-1] < 25
