"""What LEAP's teacher may see of a WebShop task: how a purchase is judged, and an example product (paper, section 4)."""

from __future__ import annotations

from leap_ray.envs.base import PrivilegedState, Secret
from leap_ray.envs.webshop.session import Session


def privileged_state(domain: str, task_id: str, session: Session) -> PrivilegedState:
    """How the session's goal is judged. Secrets: the example product, and criteria that the instruction does not say."""
    goal, product = session.goal, session.catalogue.product(session.target)
    said = goal.instruction.lower()
    wanted = [Secret("attribute", text) for text in goal.attributes] + [Secret("option", text) for text in goal.values]
    hidden = [secret for secret in wanted if secret.text and secret.text.lower() not in said]
    secrets = (Secret("code", goal.asin), Secret("product", product.title), *hidden)
    options = goal.options if isinstance(goal.options, dict) else list(goal.options)
    lines = [
        f"Instruction: {goal.instruction}",
        f"Attributes the product must have: {', '.join(goal.attributes)}",
        f"Options that must be selected: {options or 'none'}",
        f"The price must be at most ${goal.price_upper:.2f}",
        f"A product that meets all of it (others may too): {product.title}",
    ]
    facts = {
        "instruction": goal.instruction,
        "attributes": list(goal.attributes),
        "options": options,
        "price_upper": goal.price_upper,
        "asin": goal.asin,
        "product": product.title,
    }
    return PrivilegedState(domain, task_id, "\n".join(lines), secrets, facts)
