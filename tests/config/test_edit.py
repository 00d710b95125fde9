"""Edits keep every comment and every byte they need not touch, and always mean what they should."""

from __future__ import annotations

import random
from typing import Any

import pytest

from llm_bridge.config import emit, yamltext
from llm_bridge.config.edit import Editor
from llm_bridge.errors import ProviderModelForm

TEXT = """\
# head comment
model_list:
  # about the list

  # the local one
  - model_name: bridge-mini   # mini
    litellm_params:
      model: ollama/bridge-mini  # here

  # cheap one
  - model_name: gpt-4o-mini
    litellm_params:
      model: "openai/gpt-4o-mini"
      api_key: os.environ/OPENAI_API_KEY

  # about gpt-4o
  # second line
  - model_name: 'gpt-4o'
    litellm_params: {model: openai/gpt-4o, api_key: x}   # flow

# settings below
litellm_settings:
  drop_params: true   # keep
"""


def editor(text: str = TEXT) -> Editor:
    return Editor(yamltext.read(text))


def own_lines(text: str) -> list[str]:
    """The comments that stand on lines of their own."""
    return [line for line in text.splitlines() if line.lstrip().startswith("#")]


def models(edit: Editor) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yamltext.read(edit.result()).root.plain()["model_list"]
    return found


def names(text: str) -> list[str]:
    return [model["model_name"] for model in models(editor(text))]


def test_adding_a_local_model_takes_the_previous_one_out() -> None:
    edit = editor()
    assert edit.put_model("tiny", "ollama/tiny:1b", first=True) == ("bridge-mini",)
    result = edit.result()
    assert names(result) == ["tiny", "gpt-4o-mini", "gpt-4o"]
    assert own_lines(result) == own_lines(TEXT)
    added = "  - model_name: tiny\n    litellm_params:\n      model: ollama/tiny:1b\n"
    gone = "  - model_name: bridge-mini   # mini\n    litellm_params:\n      model: ollama/bridge-mini  # here\n"
    assert result == TEXT.replace(gone, added)


def test_replacing_within_a_provider_changes_one_word() -> None:
    edit = editor()
    assert edit.put_model("gpt-4o-mini", "openai/gpt-5-nano") == ()
    assert edit.result() == TEXT.replace('"openai/gpt-4o-mini"', "openai/gpt-5-nano")


def test_replacing_with_another_provider_forgets_the_old_key() -> None:
    edit = editor()
    edit.put_model("gpt-4o-mini", "anthropic/claude-x")
    assert models(edit)[1] == {"model_name": "gpt-4o-mini", "litellm_params": {"model": "anthropic/claude-x"}}
    assert own_lines(edit.result()) == own_lines(TEXT)


BESIDE = """\
model_list:
  # about a
  - model_name: a
    litellm_params:
      model: gpt-4o  # here
      custom_llm_provider: openai
      api_key: os.environ/K  # and here
  - model_name: b
    litellm_params: {custom_llm_provider: "groq", model: x, rpm: 1}   # flow
  - model_name: c
    litellm_params: {model: x, custom_llm_provider: groq}
"""


def test_a_provider_named_beside_the_model_is_its_provider() -> None:
    edit = editor(BESIDE)
    edit.put_model("a", "openai/gpt-5")
    edit.put_model("b", "groq/y")
    edit.put_model("c", "groq/z")
    expected = BESIDE.replace("gpt-4o", "openai/gpt-5").replace("      custom_llm_provider: openai\n", "")
    expected = expected.replace('custom_llm_provider: "groq", model: x', "model: groq/y")
    assert edit.result() == expected.replace("model: x, custom_llm_provider: groq", "model: groq/z")
    other = editor(BESIDE)
    other.put_model("a", "anthropic/gpt-4o")
    assert models(other)[0]["litellm_params"] == {"model": "anthropic/gpt-4o"}


def test_moving_to_the_front_takes_the_comments_along() -> None:
    edit = editor()
    assert edit.move_first("gpt-4o")
    result = edit.result()
    assert names(result) == ["gpt-4o", "bridge-mini", "gpt-4o-mini"]
    assert "  # about gpt-4o\n  # second line\n  - model_name: 'gpt-4o'\n" in result
    assert sorted(own_lines(result)) == sorted(own_lines(TEXT))
    assert sorted(result.splitlines()) == sorted(TEXT.splitlines())


def test_removing_keeps_the_section_after_it() -> None:
    edit = editor()
    assert edit.remove_model("gpt-4o")
    result = edit.result()
    assert names(result) == ["bridge-mini", "gpt-4o-mini"]
    assert result.endswith("\n# settings below\nlitellm_settings:\n  drop_params: true   # keep\n")


def test_unknown_names_and_bad_forms_change_nothing() -> None:
    edit = editor()
    assert not edit.remove_model("absent")
    assert not edit.move_first("absent")
    with pytest.raises(ProviderModelForm):
        edit.put_model("a", "noslash")
    assert edit.result() == TEXT


def test_all_entries_of_a_name_are_replaced() -> None:
    text = emit.document({"model_list": [_model("a", "openai/x"), _model("b", "openai/y"), _model("a", "groq/z")]})
    edit = editor(text)
    edit.put_model("a", "ollama/z")
    assert [(m["model_name"], m["litellm_params"]["model"]) for m in models(edit)] == [
        ("a", "ollama/z"),
        ("b", "openai/y"),
    ]
    assert names(edit.result()) == ["a", "b"]


@pytest.mark.parametrize(
    "text",
    [
        "model_list: []\n# x\nz: 1\n",
        "# only\n",
        '{"model_list": [{"model_name": "q"}], "z": 1}',
        "model_list:\n- model_name: q\n  litellm_params:\n    model: a/b",
        "model_list:\r\n- model_name: q\r\n  litellm_params:\r\n    model: a/b\r\n",
        "z: 1\nmodel_list:\n  -\n    # inside\n    model_name: q\n  - {model_name: r}\n",
        "model_list:\n  - model_name: q\n    note: |\n      - text\n      # not a comment\n\n\n# end\n",
        'z: "a\\\n  b"\nmodel_list: [\n {model_name: q}, # c\n]\n',
        'model_list:\n  - model_name: "q\u2028r"\n    a: 1\n',
    ],
)
def test_unusual_layouts_still_mean_what_they_should(text: str) -> None:
    before = yamltext.read(text).root.plain() or {}
    edit = editor(text)
    edit.put_model("new", "openai/gg", first=True)
    after = yamltext.read(edit.result()).root.plain()
    assert after["model_list"] == [_model("new", "openai/gg"), *before.get("model_list", [])]
    assert {key: value for key, value in after.items() if key != "model_list"} == {
        key: value for key, value in before.items() if key != "model_list"
    }


def test_a_long_random_life_keeps_meaning_and_comments() -> None:
    dice, text = random.Random(7), TEXT
    for step in range(120):
        edit, name = editor(text), f"m{dice.randrange(6)}"
        match dice.randrange(4):
            case 0:
                edit.put_model(name, f"ollama/x{step}", first=dice.random() < 0.5)
            case 1:
                edit.put_model(name, f"openai/y{step}", first=dice.random() < 0.5)
            case 2:
                edit.move_first(name)
            case _:
                edit.remove_model(name)
        text = edit.result()
        assert sum(m["litellm_params"]["model"].startswith("ollama/") for m in models(edit)) <= 1
        assert sorted(own_lines(text)) == sorted(own_lines(TEXT))
    print("edits: 120 steps, comments lost 0")


def _model(name: str, model: str) -> dict[str, object]:
    return {"model_name": name, "litellm_params": {"model": model}}
