"""Labels of a pretrained classifier: matched by name, never guessed, and their output rows copied."""

import re
import unicodedata
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import ResNet34_Weights

from pipelines.models.label_map import match_labels, start_rows
from pipelines.system.errors import UserError

IMAGENET: list[str] = ResNet34_Weights.IMAGENET1K_V1.meta["categories"]
DOGS = Path(__file__).parents[3] / "shared/data/dog-breed-identification-64px.zip"
CATEGORIES = ["tabby", "Pembroke", "crane", "jack-o'-lantern", "Crane", "St. Bernard"]


def listing(folder: Path, *rows: str, header: str = "label,category") -> Path:
    path = folder / "labels.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def refusal(classes: list[str], path: Path | None = None, categories: list[str] = CATEGORIES) -> str:
    with pytest.raises(UserError) as caught:
        match_labels(classes, categories, path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("label", "category"),
    [
        ("golden_retriever", "golden retriever"),
        ("GOLDEN.Retriever", "golden retriever"),
        ("  golden   -_ retriever ", "golden retriever"),
        ("n02099601-golden_retriever", "golden retriever"),
        ("n02099601_golden_retriever", "golden retriever"),
        ("N02099601-Golden", "golden"),
        ("jack_o_lantern", "jack-o'-lantern"),
        ("jack o’ lantern", "jack-o'-lantern"),
        ("st_bernard", "St. Bernard"),
        ("STRASSE", "straße"),
        (unicodedata.normalize("NFD", "Löwchen"), unicodedata.normalize("NFC", "löwchen")),
        ("n02099601", "n02099601"),  # the number is the whole name
    ],
)
def test_the_same_name_written_differently(label: str, category: str) -> None:
    assert match_labels(["other", label], ["another", "third", category]) == {1: 2}


@pytest.mark.parametrize(
    ("label", "category"),
    [("golden", "golden retriever"), ("goldenretriever", "golden retriever"), ("n0209-golden", "golden")],
)
def test_other_names_do_not_match(label: str, category: str) -> None:
    assert match_labels(["tabby", label], ["tabby", category]) == {0: 0}


def test_matches_are_indices_in_both_lists() -> None:
    assert match_labels(["st_bernard", "unicorn", "pembroke"], CATEGORIES) == {0: 5, 2: 1}


def test_what_is_ambiguous_on_either_side_is_left_out() -> None:
    assert match_labels(["crane", "tabby"], CATEGORIES) == {1: 0}
    assert match_labels(["Tabby", "tabby", "pembroke"], CATEGORIES) == {2: 1}
    assert match_labels(["n02012849-tabby", "n03126707-tabby", "pembroke"], CATEGORIES) == {2: 1}


def test_the_file_overrides_the_names(tmp_path: Path) -> None:
    path = listing(tmp_path, "corgi,pembroke", "tabby,", "crane,4", "tiger,TABBY", "cat,0", "saint, st bernard ")
    classes = ["cat", "corgi", "crane", "jack o lantern", "saint", "tabby", "tiger"]
    assert match_labels(classes, CATEGORIES, path) == {0: 0, 1: 1, 2: 4, 3: 3, 4: 5, 6: 0}
    assert list(match_labels(classes, CATEGORIES, path)) == [0, 1, 2, 3, 4, 6]


def test_labels_in_the_file_are_the_competitions_own(tmp_path: Path) -> None:
    path = listing(tmp_path, unicodedata.normalize("NFD", "Löwe") + ",tabby", "Tabby,pembroke")
    classes = ["Löwe", "Tabby", "tabby"]
    assert match_labels(classes, CATEGORIES, path) == {0: 0, 1: 1}
    assert "line 2: 'löwe' is not a label" in refusal(classes, listing(tmp_path, "löwe,tabby"))


def test_a_name_of_digits_overrides_an_index(tmp_path: Path) -> None:
    path = listing(tmp_path, "one,1", "three,3")
    assert match_labels(["one", "three"], ["2", "1", "0", "x"], path) == {0: 1, 1: 3}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            ["tabby,", "pembrok,tabby"],
            ", line 3: 'pembrok' is not a label of this competition. Did you mean 'pembroke'?",
        ),
        (["tabby,tabbi"], ", line 2: the pretrained classifier has no category 'tabbi'. Did you mean 'tabby'?"),
        (["tabby,6"], ", line 2: the pretrained classifier has no category '6'. It has the numbers 0 to 5"),
        (["tabby,-1"], ", line 2: the pretrained classifier has no category '-1'."),
        (["tabby,²"], ", line 2: the pretrained classifier has no category '²'."),
        (["tabby,0", "", "tabby,1"], ", line 4: 'tabby' is already on line 2. Remove one"),
        (["tabby,", "tabby,"], ", line 3: 'tabby' is already on line 2. Remove one"),
        (["tabby,crane"], ", line 2: the category 'crane' may be 2 ('crane') or 4 ('Crane'). Write the number"),
        (["tabby,Crane"], ", line 2: the category 'Crane' may be 2 ('crane') or 4 ('Crane'). Write the number"),
        (["tabby"], ", line 2: 1 values for 2 columns"),
    ],
)
def test_mistakes_in_the_file_name_it_and_the_line(tmp_path: Path, rows: list[str], expected: str) -> None:
    path = listing(tmp_path, *rows)
    assert f"{path}{expected}" in refusal(["pembroke", "tabby"], path)


def test_all_mistakes_in_the_file_are_listed_up_to_a_bound(tmp_path: Path) -> None:
    path = listing(tmp_path, "pembrok,tabby", "tabby,tabbi", *(f"dog {number},tabby" for number in range(8)))
    message = refusal(["pembroke", "tabby"], path)
    assert [int(line) for line in re.findall(r"line (\d+): ", message)] == [2, 3, 4, 5, 6]
    assert "And 5 more lines." in message
    assert message.count("It has 2: 'pembroke', 'tabby'.") == 1


@pytest.mark.parametrize("header", ["category,label", "label", "label,category,note", "tabby,0"])
def test_another_header_is_refused(tmp_path: Path, header: str) -> None:
    path = listing(tmp_path, ",".join("x" * len(header.split(","))), header=header)
    expected = f"{path}, line 1: the columns are {', '.join(header.split(','))}; expected label,category."
    assert refusal(["tabby"], path) == expected


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert f"There is no file {tmp_path / 'absent.csv'}" in refusal(["tabby"], tmp_path / "absent.csv")


def test_no_match_at_all_shows_both_lists(tmp_path: Path) -> None:
    message = refusal(["0", "1", "2", "3"])
    assert "None of the 4 labels ('0', '1', '2', …)" in message
    assert "6 categories: 'tabby', 'Pembroke', 'crane', …." in message
    assert "label,category" in message
    path = listing(tmp_path, "tabby,")
    assert f"now {path}" in refusal(["tabby"], path)


def test_dog_breeds_are_all_in_imagenet(tmp_path: Path) -> None:
    if not DOGS.is_file():
        pytest.skip("needs ../shared/data/dog-breed-identification-64px.zip")
    with zipfile.ZipFile(DOGS) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("sample_submission.csv"))
        breeds = archive.read(name).decode().splitlines()[0].split(",")[1:]
    assert len(breeds) == 120
    by_name = match_labels(breeds, IMAGENET)
    assert {breeds[number] for number in range(120) if number not in by_name} == {
        "cardigan"
    }  # also a piece of knitwear
    matches = match_labels(breeds, IMAGENET, listing(tmp_path, "cardigan,264"))
    assert sorted(matches) == list(range(120))
    assert len(set(matches.values())) == 120
    wild = {"dingo": 273, "dhole": 274, "african_hunting_dog": 275}
    assert {breed: matches[breeds.index(breed)] for breed in wild} == wild
    assert set(matches.values()) - set(wild.values()) <= set(range(151, 269))  # ImageNet's dogs


def test_matched_rows_are_copied_and_the_others_are_initialised() -> None:
    torch.manual_seed(0)
    layer, classifier = nn.Linear(8, 50), nn.Linear(8, 5)
    before = classifier.weight.clone()
    start_rows(layer, classifier, {3: 4, 0: 1, 7: 4})
    for row, source in ((3, 4), (0, 1), (7, 4)):
        assert torch.equal(layer.weight[row], classifier.weight[source])
        assert layer.bias[row] == classifier.bias[source]
    others = [row for row in range(50) if row not in (0, 3, 7)]
    bound = (6 / 58) ** 0.5  # Xavier's
    assert 0.9 * bound < layer.weight[others].abs().max() <= bound
    assert not layer.bias[others].any()
    assert layer.weight.requires_grad
    assert layer.weight.is_leaf
    with torch.no_grad():
        layer.weight.zero_()
    assert torch.equal(classifier.weight, before)


def test_rows_depend_on_the_seed_alone() -> None:
    weights = []
    for earlier in (1.0, 2.0):
        layer, classifier = nn.Linear(4, 6), nn.Linear(4, 3)
        nn.init.constant_(layer.weight, earlier)
        nn.init.constant_(classifier.weight, 0.5)
        torch.manual_seed(7)
        start_rows(layer, classifier, {2: 1})
        weights.append(layer.weight.detach())
    assert torch.equal(*weights)


@pytest.mark.parametrize(("ours", "theirs"), [(True, False), (False, True), (False, False)])
def test_a_missing_bias_counts_as_zero(ours: bool, theirs: bool) -> None:
    layer, classifier = nn.Linear(4, 3, bias=ours), nn.Linear(4, 5, bias=theirs)
    start_rows(layer, classifier, {1: 2})
    assert torch.equal(layer.weight[1], classifier.weight[2])
    assert layer.bias is None if not ours else not layer.bias.any()


def test_rows_are_converted_to_the_layers_type() -> None:
    layer, classifier = nn.Linear(4, 3, dtype=torch.float64), nn.Linear(4, 5)
    start_rows(layer, classifier, {1: 2})
    assert torch.equal(layer.weight[1], classifier.weight[2].double())


def test_other_features_are_refused() -> None:
    with pytest.raises(UserError, match=r"takes 8 features, the pretrained classifier 4\. .* linear head on pooled"):
        start_rows(nn.Linear(8, 3), nn.Linear(4, 3), {0: 0})


def test_a_number_of_thousands_of_digits_is_no_category(tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    path.write_text(f"label,category\ncat,{'9' * 5000}\n")
    with pytest.raises(UserError, match=r"line 2: the pretrained classifier has no category"):
        match_labels(["cat"], ["cat", "dog"], path)
