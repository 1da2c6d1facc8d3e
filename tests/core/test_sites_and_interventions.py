"""Sites, interventions and conditions: text forms round-trip, impossible values are refused."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backtracking.core.errors import InputError
from backtracking.core.interventions import (
    BASELINE,
    At,
    Ban,
    Condition,
    Scale,
    Window,
    conditions_of,
    parse_conditions,
    parse_intervention,
)
from backtracking.core.sites import Site

sites = st.one_of(
    st.builds(Site, st.sampled_from(["attn", "mlp", "resid_pre", "resid_mid", "resid_post"]), st.integers(0, 99)),
    st.builds(lambda layer, head: Site("attn", layer, head), st.integers(0, 99), st.integers(0, 99)),
)
scopes = st.one_of(
    st.sampled_from(["all", "prompt", "decode"]),
    st.builds(At, st.lists(st.integers(0, 9999), min_size=1)),
    st.builds(Window, st.integers(5, 40), st.integers(-5, 40)),
)
scales = st.builds(Scale, sites, st.floats(allow_nan=False, allow_infinity=False), scopes)


@given(scales)
def test_a_scale_is_read_back_from_its_text(scale):
    assert parse_intervention(str(scale)) == scale


@given(sites)
def test_a_site_is_read_back_from_its_text(site):
    assert Site.parse(str(site)) == site


def test_text_forms_are_the_documented_ones():
    assert str(parse_intervention("mlp.27*0.5@decode")) == "mlp.27*0.5@decode"
    assert parse_intervention("mlp.27*0.5@decode") == Scale("mlp.27", 0.5, "decode")
    assert parse_intervention(" attn.3.h5 * 0 ") == Scale(Site("attn", 3, 5), 0.0)
    assert parse_intervention("ban(Wait|Hold on)") == Ban(["Wait", "Hold on"])
    assert str(Ban(("Wait", "Hold on"))) == "ban(Wait|Hold on)"
    assert Ban("Wait") == Ban(["Wait"]) == Ban([" Wait "])


WRONG = {
    'Scale("mlp.3", "x")': "cannot scale mlp.3 by 'x': give a finite number",
    'Add("mlp.3", [1.0], float("inf"))': "cannot add a vector at mlp.3 times inf: give a finite number",
    "At(3)": "At needs a list of positions, not 3; write At([3, 4])",
    'conditions_of(Condition("z"))': "conditions are given as a list or a mapping",
    'conditions_of("baseline")': "conditions are given as a list or a mapping",
    "conditions_of([3])": "3 is no condition",
    'Condition("x", "mlp.3*0")': "the interventions of 'x' are given as a list; write ['mlp.3*0']",
    'Condition("x", Scale("mlp.3", 0))': "the interventions of 'x' are given as a list",
    'Condition("x", [3])': "3 is no intervention; give Scale",
    "Condition(3, [])": "the name of a condition is text, not 3",
    "Site.parse(0)": "cannot read the site 0; write it as mlp.27",
    'Completion(1, 0, "v", "c", [1], [2], "x", "eos")': "finish_reason is 'eos'; use stop, length, degenerate",
    'Completion(1, 0, "v", "c", [1], [2], "x", "stop").token_at(0)': "this completion holds no offsets",
}


def test_values_of_another_kind_are_one_clear_line():
    """In a process of its own, where no checker of types comes first."""
    code = (
        "import json, sys\n"
        "from backtracking.core.completions import *\n"
        "from backtracking.core.interventions import *\n"
        "from backtracking.core.errors import InputError\n"
        "from backtracking.core.sites import Site\n"
        "found = []\n"
        "for each in json.loads(sys.argv[1]):\n"
        "    try:\n"
        "        found.append(repr(eval(each)))\n"
        "    except InputError as error:\n"
        "        found.append(str(error))\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(list(WRONG))], capture_output=True, check=True)
    for said, expected in zip(json.loads(done.stdout), WRONG.values(), strict=True):
        assert said.startswith(expected)


def test_conditions_are_given_in_any_of_four_forms():
    arm = Condition("z", ["mlp.3*0@decode"])
    assert conditions_of([BASELINE, arm]) == (BASELINE, arm)
    assert conditions_of(["baseline", ("z", ["mlp.3*0@decode"])]) == (BASELINE, arm)
    assert conditions_of([("z", (Scale("mlp.3", 0, "decode"),))]) == (arm,)
    assert conditions_of({"z": ["mlp.3*0@decode"]}) == (BASELINE, arm)


def test_hook_names_are_transformer_lenss():
    names = {"mlp.27": "blocks.27.hook_mlp_out", "attn.3": "blocks.3.hook_attn_out",
             "attn.3.h5": "blocks.3.attn.hook_z", "resid_post.1": "blocks.1.hook_resid_post"}  # fmt: skip
    assert {text: Site.parse(text).hook_name for text in names} == names


@pytest.mark.parametrize(
    "text",
    ["", "mlp", "mlp.27", "mlp.x*0", "mlp.27*", "mlp.27*big", "mlp.27*nan", "mlp.2*inf", "mlp.-1*0", "mlp.1.h2*0",
     "head.3*0", "mlp.27*0@later", "mlp.27*0@at()", "ban()", "ban(|)", "mlp.27*0@window(1,-4)"],
)  # fmt: skip
def test_what_cannot_be_read_is_named(text):
    with pytest.raises(InputError) as caught:
        parse_intervention(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) > 20


def test_conditions_hold_what_makes_sense():
    assert str(BASELINE) == "no intervention"
    assert parse_conditions({"off": ["mlp.1*0"]}) == (BASELINE, Condition("off", [Scale("mlp.1", 0)]))
    with pytest.raises(InputError, match="baseline cannot intervene"):
        parse_conditions({"baseline": ["mlp.1*0"]})
    with pytest.raises(InputError, match="same intervention twice"):
        Condition("x", ["mlp.1*0", "mlp.1*0.0"])
    with pytest.raises(InputError, match="needs a name"):
        Condition(" ")


def test_values_are_frozen_and_hashable():
    assert len({Scale("mlp.1", 0.5), Scale("mlp.1", 0.5), Ban(["a"]), At([1]), Window(1, 1)}) == 4
    with pytest.raises(AttributeError):
        Scale("mlp.1", 0.5).factor = 1.0  # pyright: ignore[reportAttributeAccessIssue]
