"""Chat templates of many families: what is trained is what was read and said, or the template is refused in one sentence."""

import datetime
import re
from pathlib import Path

import pytest
import trl
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from leap_ray.errors import UserError
from leap_ray.policy import Prompter, View, parse

SHIPPED = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
REFUSED = {
    "deepseek_r1_distill": "'<think>' open",
    "deepseekv3": "'<think>' open",
    "idefics3": "does not show every message",
    "llava_next": "does not show every message",
    "smolvlm": "does not show every message",
}
THOUGHTS = re.compile(r"<think>\s*</think>\s*")
TOKEN = re.compile(r"<\|?/?\w+\|>|<\|\w+\|?>|<｜[^<>｜]+｜>|<(?:start|end)_of_\w+>|\[gMASK\]|<sop>|</?think>")
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ANSWERED = "think: It is near.\nact: go to desk 1"


@pytest.fixture(scope="module")
def tokenizer(student_folder):
    """SmolLM2's, which knows the control tokens of all shipped templates besides."""
    made = AutoTokenizer.from_pretrained(student_folder)
    tokens = sorted({token for file in SHIPPED for token in TOKEN.findall(file.read_text())})
    made.add_special_tokens({"additional_special_tokens": [t for t in tokens if "think>" not in t]})
    made.add_tokens(["<think>", "</think>"])
    return made


def prompter_of(tokenizer, source, dialect="chat", **settings):
    tokenizer.chat_template = source
    return Prompter(tokenizer, dialect, **settings)


def told(prompter):
    """Two prompts of a conversation and the completion between them."""
    conversation = prompter.start("find a mug")
    before = conversation.prompt("You are in a room.", ("go to desk 1",))
    completion = tuple(prompter.completion_ids("It is near.", "go to desk 1"))
    conversation.reply(completion, "go to desk 1")
    return before, completion, conversation.prompt("On the desk 1, you see a mug 1.", ())


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_template_is_right_or_refused(tokenizer, file):
    family = file.stem.removesuffix("_training")
    if family in REFUSED:
        with pytest.raises(UserError, match=REFUSED[family]) as error:
            prompter_of(tokenizer, file.read_text())
        assert "\n" not in str(error.value)
        return
    prompter = prompter_of(tokenizer, file.read_text())
    before, completion, after = told(prompter)
    assert after[: len(before) + len(completion)] == [*before, *completion]
    assert completion[-1] == prompter.end_id and prompter.end_id in tokenizer.all_special_ids
    assert parse(prompter.text(completion), "chat").action == "go to desk 1"
    view = prompter.tokenizer.decode(before)
    assert len(re.findall("<think>", view)) == len(re.findall("</think>", view))
    # As the template itself shows this history, but for empty blocks of thoughts, which some show in the last turn only.
    own, ours = shown_by_template(prompter), tokenizer.decode(after)
    assert THOUGHTS.sub("", own) == THOUGHTS.sub("", ours)
    if (
        own == ours and "\n\n" not in prompter.template.parts.opening
    ):  # SmolLM2 splits these before a word, not at an end
        assert tokenizer(own, add_special_tokens=False)["input_ids"] == after


def shown_by_template(prompter):
    """The same history as the template renders it, and the header before the next answer where it shows that in history only."""
    first = prompter.first_message(View("find a mug", (), "You are in a room.", ("go to desk 1",)))
    roles = ("user", first), ("assistant", ANSWERED), ("user", "On the desk 1, you see a mug 1.")
    messages = [{"role": role, "content": content} for role, content in roles]
    tokenizer, arguments = prompter.tokenizer, prompter.template.arguments
    own = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **arguments)
    return own + prompter.template.parts.reopening.removeprefix(own.rpartition(roles[2][1])[2])


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think", "qwen3_6", "nemotron_3_nano", "glm4moe"])
def test_thinking_is_off_unless_asked_for(tokenizer, name):
    source = next(file for file in SHIPPED if file.stem == name).read_text()
    prompt, *_ = told(prompter_of(tokenizer, source))
    assert tokenizer.decode(prompt).rstrip().endswith("</think>")
    if name == "qwen3":  # here the student opens its thoughts itself
        thinking = prompter_of(tokenizer, source, template={"enable_thinking": True})
        assert "think>" not in tokenizer.decode(told(thinking)[0])
        assert thinking.hash != prompter_of(tokenizer, source).hash
    elif name != "glm4moe":
        with pytest.raises(UserError, match=r"set student\.template: \{enable_thinking: false\}"):
            prompter_of(tokenizer, source, template={"enable_thinking": True})


@pytest.mark.parametrize(
    ("opened", "mark"),
    [
        ("<think>\n", "<think>"),
        ("[THINK]", "[THINK]"),
        ("<|START_THINKING|>", "<|START_THINKING|>"),
        ("<|begin_of_thought|>\n", "<|begin_of_thought|>"),
        ("<seed:think>", "<seed:think>"),
        ("<thought>\n", "<thought>"),
        ("<|channel>thought\n", "<|channel>"),
        ("<|channel|>analysis<|message|>", "<|channel|>analysis<|message|>"),
        ("<|channel|>commentary", "<|channel|>commentary"),
        ("<|start|>assistant<|channel|>", "<|channel|>"),
        ("<think>\nDone.\n</think>\n<think>", "<think>"),
    ],
)
def test_a_prompt_that_leaves_thoughts_open_is_refused_and_the_remedy_closes_them(tokenizer, opened, mark):
    source = CHATML.replace("assistant\n{% endif %}", f"assistant\n{opened}{{% endif %}}")
    with pytest.raises(UserError, match=re.escape(repr(mark))) as error:
        prompter_of(tokenizer, source)
    prefill = re.search(r'student\.prefill: "(.*?)", which', str(error.value)).group(1)
    prefill = prefill.encode().decode("unicode_escape")
    before, completion, after = told(prompter_of(tokenizer, source, prefill=prefill))
    assert tokenizer.decode(before).endswith(prefill)
    assert after[: len(before) + len(completion)] == [*before, *completion]


def test_a_turn_that_begins_with_a_start_token_is_no_open_header(tokenizer):
    source = CHATML.replace("<|im_start|>", "<|start|>").replace("<|im_end|>", "<|end|>")
    assert tokenizer.decode(told(prompter_of(tokenizer, source))[0]).endswith("<|start|>assistant\n")


def test_a_header_of_history_belongs_to_the_prompt(tokenizer):
    source = next(file for file in SHIPPED if file.stem == "gptoss").read_text()
    before, _, after = told(prompter_of(tokenizer, source))
    for prompt in (before, after):
        assert tokenizer.decode(prompt).endswith("<|start|>assistant<|channel|>final<|message|>")


class OtherDay(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2031, 3, 4)


@pytest.mark.parametrize("name", ["llama3_2", "gptoss", "muse_glimmer"])
@pytest.mark.parametrize("dialect", ["chat", "leap"])
def test_prompts_are_the_same_on_another_day(tokenizer, monkeypatch, name, dialect):
    source = next(file for file in SHIPPED if file.stem == name).read_text()
    today = prompter_of(tokenizer, source, dialect)
    before = told(today)
    monkeypatch.setattr(chat_template_utils, "datetime", OtherDay)
    later = prompter_of(tokenizer, source, dialect)
    assert told(later) == before and later.hash == today.hash and later.template.is_dated
    pinned = prompter_of(tokenizer, source, dialect, date="2024-02-29")
    assert re.search("29 Feb 2024|2024-02-29", tokenizer.decode(told(pinned)[0]))
    assert pinned.hash != today.hash


def test_a_date_that_the_template_does_not_ask_for_changes_nothing(tokenizer):
    plain, dated = prompter_of(tokenizer, CHATML), prompter_of(tokenizer, CHATML, date="2024-02-29")
    assert plain.hash == dated.hash and told(plain) == told(dated)
    with pytest.raises(UserError, match=r"student\.date: 'today' is no date"):
        prompter_of(tokenizer, CHATML, date="today")


def test_a_date_string_without_default_is_given_and_one_with_default_stays(tokenizer):
    wanted = prompter_of(tokenizer, "{{ date_string }}\n" + CHATML, date="2024-02-29")
    assert tokenizer.decode(told(wanted)[0]).startswith("29 Feb 2024\n")
    source = next(file for file in SHIPPED if file.stem == "llama3_1").read_text()
    own = prompter_of(tokenizer, source, date="2024-02-29")
    assert "26 Jul 2024" in tokenizer.decode(told(own)[0])


def test_the_hash_names_the_chat_template_and_its_arguments(tokenizer):
    plain = prompter_of(tokenizer, CHATML)
    hashes = {
        plain.hash,
        prompter_of(tokenizer, "You play.\n" + CHATML).hash,
        prompter_of(tokenizer, CHATML, template={"role": "x"}).hash,
        prompter_of(tokenizer, CHATML, prefill="Well. ").hash,
        prompter_of(tokenizer, CHATML, "leap").hash,
    }
    assert len(hashes) == 5 and prompter_of(tokenizer, CHATML).hash == plain.hash


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (CHATML.replace("<|im_end|>", "\n###"), "no special token: nothing would stop the student"),
        (CHATML.replace("<|im_end|>", "</answer><|im_end|>"), "ends an answer with '</answer>'"),
        (CHATML.replace("message.content", "message.content | upper"), "does not show every message"),
        (CHATML.replace("message.content", "message.content | tojson"), "is no special token"),
        (CHATML.replace("message.content", "message.content | e"), "does not show every message"),
        (CHATML.replace("message.content", "message.content[:20]"), "does not show every message"),
        (CHATML + "{{ messages[0].content }}", "does not show every message"),
        (CHATML.replace("message.role", "loop.index ~ message.role"), "writes later turns in other ways"),
        (CHATML + "{{ raise_exception('no system role') }}", r"fails on .*TemplateError: no system role"),
        (CHATML + "{{ missing.field }}", "fails on a conversation"),
        (CHATML + "{{ ['a', 'b'] | random }}", "writes random text"),
        (CHATML + "{{ lipsum() }}", "writes random text"),
        (CHATML + "{% if %}", "is not valid Jinja"),
    ],
)
def test_other_templates_are_refused_in_one_sentence(tokenizer, source, reason):
    with pytest.raises(UserError, match=reason):
        prompter_of(tokenizer, source)


@pytest.mark.parametrize("name", ["tokenize", "add_generation_prompt", "messages"])
def test_arguments_that_prompts_need_themselves_cannot_be_set(tokenizer, name):
    with pytest.raises(UserError, match=rf"student\.template: {name} cannot be set"):
        prompter_of(tokenizer, CHATML, template={name: False})


def test_the_end_of_a_turn_is_its_first_special_token(tokenizer):
    """Llama 2's template puts spaces around an answer; they are the answer's, and none of them ends it."""
    source = (
        "{% for message in messages %}{% if message.role == 'user' %}<|im_start|>[INST] {{ message.content }} [/INST]"
        "{% else %} {{ message.content }} <|im_end|>{% endif %}{% endfor %}"
    )
    prompter = prompter_of(tokenizer, source)
    _, completion, after = told(prompter)
    assert tokenizer.decode([prompter.end_id]) == "<|im_end|>"
    assert tokenizer.decode(completion) == f" {ANSWERED} <|im_end|>"
    assert tokenizer(tokenizer.decode(after), add_special_tokens=False)["input_ids"] == after
    assert tokenizer.decode(after) == shown_by_template(prompter)


def test_a_template_that_strips_messages_gets_them_stripped(tokenizer):
    kept, stripped = CHATML, CHATML.replace("message.content", "message.content | trim")
    for source, wanted in ((kept, "user\n\n x \n<|im_end|>"), (stripped, "user\nx<|im_end|>")):
        prompter = prompter_of(tokenizer, source)
        assert wanted in tokenizer.decode(prompter.first_ids("\n x \n"))
        assert wanted in tokenizer.decode(prompter.next_ids("\n x \n", ended=True))
