"""What a provider's error means: for this request, for every request, or for the form in which requests are sent.

Providers agree on neither status nor code, so an error is recognised by its structure where it has one (code, parameter), and
by the words that real servers use: Anthropic, OpenAI, Azure, vLLM, SGLang, llama.cpp, Ollama, LM Studio, TGI, LiteLLM,
OpenRouter, Groq, Together, Mistral, DeepSeek, Gemini.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

LONGEST = 500  # characters of a provider's words that are kept


class Meaning(Enum):
    """What another request can hope for."""

    EVERY = "no request will be answered: the key, the credit, the model's name"
    FORBIDDEN = "403: a key without permission, or this request's content"
    FLAGGED = "this request's content was refused by a filter"
    LATER = "later it may be answered: limits, overload, a fault on the provider's side"
    THIS = "this request as it stands will not be answered"


EVERY_CODES = frozenset(
    {
        "insufficient_quota", "insufficient_balance", "insufficient_credits", "insufficient_user_quota", "budget_exceeded",
        "billing_hard_limit_reached", "billing_not_active", "billing_error", "account_deactivated", "access_terminated",
        "deactivated_workspace", "payment_required", "arrearage", "exceeded_current_quota_error", "credit_balance_too_low",
        "invalid_api_key", "authentication_error", "invalid_authentication", "permission_denied_error", "user_not_found",
        "model_not_found", "model_terminated", "model_decommissioned", "unknown_model", "invalid_model", "deploymentnotfound",
    }
)  # fmt: skip
EVERY_WORDS = re.compile(
    r"credit balance|insufficient (account )?(credit|balance|fund|quota)|exceeded your current quota|"
    r"billing hard limit|billing[ _](is )?not[ _]active|account is not active|check your (plan and )?billing|"
    r"reached your specified (api )?usage limit|spend(ing)? limit|out of credits?\b|"
    r"(no|any|all available|requires more|monthly included) credits|"
    r"account (is|was|has been) (currently )?(deactivated|disabled|suspended|terminated|blocked)|"
    r"organi[sz]ation (is|was|has been) (deactivated|disabled|suspended)|payment (is )?required|budget has been exceeded|"
    r"(incorrect|invalid|missing|expired|no) (x-)?api[ -]?key|invalid subscription key|key limit exceeded|"
    r"not a valid model|invalid model name|model[ _]not[ _](exist|found)|no models? (is |are )?loaded|"
    r"model .{1,120}(does not exist|not found|not exist|has been deprecated|has been decommissioned)",
    re.IGNORECASE | re.DOTALL,
)
AGAIN_WORDS = re.compile(r"(re)?try( again)? in \d|tr(y|ies) again (later|in)|per[ _-]?(second|minute)", re.IGNORECASE)
FLAG_CODES = frozenset(
    {
        "content_filter", "content_policy_violation", "invalid_prompt", "data_inspection_failed", "moderation_blocked",
        "responsibleaipolicyviolation", "sensitive_words_detected", "prohibited_content", "cyber_policy_violation",
    }
)  # fmt: skip
FLAG_WORDS = re.compile(
    r"\bflagged\b|moderation|content[ _](management|policy|policies|filter|exists risk)|inappropriate content|"
    r"usage polic(y|ies)|safety (system|filter|policy)|prohibited[ _]content|content exists risk|sensitive content",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Refusal:
    """A provider's error. `words` are for people; `text` is all of it, for recognition; `param` is what it complains of."""

    status: int
    words: str
    text: str
    codes: frozenset[str] = frozenset()
    param: str = ""
    retry_hint: bool = False  # the provider said when to ask again

    @property
    def meaning(self) -> Meaning:
        """What it says of this and of other requests."""
        if self.status in (401, 402) or 300 <= self.status < 400:
            return Meaning.EVERY
        if self.codes & FLAG_CODES or (self.status in (400, 403, 422, 451) and FLAG_WORDS.search(self.text)):
            return Meaning.FLAGGED
        if self.codes & EVERY_CODES or self._says_every():
            return Meaning.EVERY
        if self.status == 404:
            return Meaning.EVERY
        if self.status == 403:
            return Meaning.FORBIDDEN
        if self.status in (408, 409, 425, 429) or self.status >= 500:
            return Meaning.LATER
        return Meaning.THIS

    @property
    def detail(self) -> str:
        """One line for people."""
        return f"HTTP {self.status}: {self.words}"[:LONGEST]

    def _says_every(self) -> bool:
        if not EVERY_WORDS.search(self.text):
            return False
        # A limit per minute may be worded like an empty account (Gemini): whoever says when to ask again means it.
        return self.status < 500 and not (self.status == 429 and (self.retry_hint or AGAIN_WORDS.search(self.text)))


def refusal_of(status: int, body: str, *, retry_hint: bool = False) -> Refusal:
    """The refusal in a response's body, whatever its form: JSON of any provider, a web page, nothing."""
    plain = _parsed(body)
    error = _error_in(plain)
    return Refusal(
        status=status,
        words=_words(error, body) or "no message",
        text=_told(error, body)[:20_000],
        codes=frozenset(_codes(error)),
        param=_param(error),
        retry_hint=retry_hint,
    )


def error_status(body: str) -> int | None:
    """The status that an error inside an answer of status 200 names; 200 where it names none; None where there is no error."""
    plain = _parsed(body)
    if not isinstance(plain, dict):
        return None
    error = plain.get("error")
    told = plain.get("type") == "error" or (bool(error) and not plain.get("choices") and not plain.get("content"))
    if not told:
        return None
    code = error.get("code", error.get("status")) if isinstance(error, dict) else None
    return code if isinstance(code, int) and not isinstance(code, bool) and 400 <= code <= 599 else 200


def _parsed(body: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _error_in(plain: Any) -> Any:
    """The part that tells: `error` of an object, the first of a list."""
    if isinstance(plain, list) and plain:
        plain = plain[0]
    if isinstance(plain, dict) and plain.get("error"):
        inner = plain["error"]
        # {"error": "text", "message": …} (TGI, Ollama): the whole object tells more than the text alone.
        return inner if isinstance(inner, dict) else plain
    return plain


def _words(error: Any, body: str) -> str:
    if isinstance(error, dict):
        raw = (error.get("metadata") or {}).get("raw") if isinstance(error.get("metadata"), dict) else None
        if isinstance(raw, str) and raw:  # OpenRouter: what the provider behind it said
            inner = _error_in(_parsed(raw))
            return f"{_line(error.get('message'))}: {_words(inner, raw)}".strip(": ")
        for name in ("message", "detail", "error", "error_description", "title", "reason", "msg"):
            if error.get(name):
                return _line(error[name])
    if isinstance(error, str):
        return _line(error)
    return _line(re.sub(r"<[^>]*>", " ", body) if "<html" in body[:500].lower() else body)


def _line(value: Any) -> str:
    """Any value as one line; a list of FastAPI's complaints as their messages."""
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        value = "; ".join(f"{'.'.join(map(str, v.get('loc', ())))}: {v.get('msg', v)}".strip(": ") for v in value)
    elif isinstance(value, dict):
        value = value.get("message") or json.dumps(value)
    return " ".join(html.unescape(str(value or "")).split())[:LONGEST]


def _told(error: Any, body: str) -> str:
    """Everything that the error tells but what it repeats of our own request (FastAPI's `input`)."""
    if not isinstance(error, dict | list):
        return body
    return json.dumps(_without_echo(error), ensure_ascii=False).replace('\\"', '"')


def _without_echo(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_echo(inner) for name, inner in value.items() if name not in ("input", "body", "request")}
    return [_without_echo(inner) for inner in value] if isinstance(value, list) else value


def _codes(error: Any) -> Iterator[str]:
    if not isinstance(error, dict):
        return
    for name in ("code", "type", "status", "error_type"):
        if isinstance(error.get(name), str):
            yield error[name].strip().lower()
    inner = error.get("innererror")
    if isinstance(inner, dict):
        yield from _codes(inner)


def _param(error: Any) -> str:
    """The parameter that is complained of: OpenAI's `param`, the end of FastAPI's `loc`."""
    if not isinstance(error, dict):
        return ""
    if isinstance(error.get("param"), str):
        return error["param"]
    details = error.get("detail") or error.get("message")
    if isinstance(details, list) and details and isinstance(details[0], dict):
        loc = details[0].get("loc")
        return ".".join(str(part) for part in loc if part != "body") if isinstance(loc, list | tuple) else ""
    return ""
