"""How shoppers put a product attribute in other words: "stain resistant" is also "withstands stains"."""

from __future__ import annotations

from itertools import islice, product

MOST = 120  # paraphrases of one attribute

# What stands for one word of an attribute.
_PARTS: dict[str, tuple[str, ...]] = {
    "adjustable": ("adjust", "changed"),
    "animal": ("animals",),
    "anti": ("non", "not", "no", "against", "fight"),
    "absorbent": ("absorb", "soak up", "take up water"),
    "absorbing": ("absorb", "soak up", "cushion"),
    "assemble": ("assembly", "put together", "set up", "build"),
    "cancelling": ("cancel", "block", "block out", "keep out", "shut out", "reduce", "suppress"),
    "care": ("care for", "look after", "maintain"),
    "carry": ("portable", "take along", "carry around"),
    "charge": ("charge", "recharge"),
    "charging": ("charge", "recharge"),
    "clean": ("wash", "wipe", "cleaned", "keep clean"),
    "closure": ("close", "fasten", "do up", "closed"),
    "comfortable": ("comfy", "comfort"),
    "drying": ("dry",),
    "eco": ("environment", "environmentally", "planet", "earth"),
    "easy": ("easily", "simple", "effortless", "without effort", "no trouble", "hassle free", "straightforward", "breeze", "snap", "cinch", "no fuss"),
    "fast": ("quick", "quickly", "rapid"),
    "fit": ("cut", "fitting"),
    "fresh": ("freshen", "fresher"),
    "friendly": ("suitable", "safe", "fine for", "ok for", "good for"),
    "high": ("rich", "plenty", "lots", "a lot", "full"),
    "install": ("mount", "set up", "put up", "installation"),
    "long": ("long",),
    "low": ("few", "little", "reduced", "not much"),
    "prepare": ("make", "cook"),
    "non": ("not", "no", "without", "anti"),
    "reducing": ("reduce", "dampen", "less", "cut", "lower"),
    "saving": ("save",),
    "proof": (
        "protect from",
        "protect against",
        "not let through",
        "resist",
        "withstand",
        "repel",
        "tight",
        "hold up against",
        "stand up to",
        "keep out",
    ),
    "quality": ("grade",),
    "quick": ("quickly", "fast", "rapid"),
    "resistant": (
        "protect from",
        "protect against",
        "keep out",
        "not let through",
        "resist",
        "proof",
        "withstand",
        "repel",
        "hold up against",
        "stand up to",
        "survive",
        "shrug off",
    ),
    "skin": ("complexion",),
    "slim": ("narrow", "tight", "close"),
    "soft": ("gentle",),
    "toxic": ("toxins", "poisonous"),
    "use": ("handle", "operate"),
    "wall": ("walls",),
    "washable": ("washer", "washing", "laundry"),
    "whitening": ("whiten", "whiter"),
    "wireless": ("without wires", "without wire", "without cable", "no wires", "no cable", "cordless"),
    "waist": ("waistband",),
}
_INTENSIFIERS = ("super", "ultra", "extra", "very", "highly", "really")
# What stands for the whole.
_WHOLE: dict[str, tuple[str, ...]] = {
    "animal testing": ("tested on animals",),
    "anti slip": ("not slip", "not slide", "slip resistant", "slip proof", "good grip"),
    "cruelty free": (
        "not tested on animals",
        "not been tested on animals",
        "no animal testing",
        "without animal testing",
    ),
    "dairy free": ("no milk", "without milk", "free of milk"),
    "eco friendly": ("environmentally friendly", "good for the environment", "kind to the environment"),
    "fade resistant": ("keep its color", "not lose its color", "not fade"),
    "fragrance free": ("unscented", "no scent", "without scent", "no perfume", "without perfume"),
    "heavy duty": ("sturdy", "robust", "rugged", "tough", "take a beating", "take a lot of load"),
    "high quality": ("good quality", "top quality", "premium quality", "well made", "best quality"),
    "light weight": ("lightweight", "not heavy", "not weigh much", "weigh little", "light to carry"),
    "lightweight": ("not heavy", "not weigh much", "weigh little", "light to carry"),
    "long lasting": (
        "durable",
        "last long",
        "last for long",
        "last a long time",
        "last for a long time",
        "last for years",
    ),
    "machine washable": ("washing machine", "washed by machine", "safe in the washer"),
    "machine wash": ("washing machine", "washed by machine", "safe in the washer"),
    "hand wash": ("washed by hand",),
    "leak proof": ("not leak", "never leak"),
    "noise cancelling": ("no outside noise", "keep noise away"),
    "non slip": ("not slip", "not slide", "slip resistant", "slip proof", "good grip"),
    "non toxic": ("no poison", "no harmful chemicals"),
    "quick drying": ("dry fast", "dry quickly"),
    "slip resistant": ("not slip", "not slide", "good grip"),
    "space saving": (
        "save space",
        "take little space",
        "take little room",
        "not take much room",
        "not take up much room",
        "not take up space",
    ),
    "stain resistant": ("not stain", "not get stained", "spill proof"),
    "tumble dry": ("tumble dryer", "dryer safe", "safe in the dryer"),
    "wall mounted": ("hang on the wall", "hung on the wall", "fixed to the wall"),
    "water resistant": ("waterproof", "not let water in", "get wet without harm"),
    "waterproof": ("keep water out", "keep out water", "not let water in"),
    "wireless": ("cordless", "no wire", "no cable", "without cable", "without wires"),
}


def paraphrases(attribute: str) -> tuple[str, ...]:
    """Other wordings of an attribute, without itself; at most MOST."""
    plain = attribute.casefold()
    parts = [part for part in plain.split() if part not in _INTENSIFIERS] or plain.split()
    if not 1 <= len(parts) <= 3:
        return ()
    mixed = (" ".join(choice) for choice in product(*((part, *_PARTS.get(part, ())) for part in parts)))
    several = islice(mixed, MOST) if len(plain.split()) > 1 else ()
    return tuple(dict.fromkeys(text for text in (*_WHOLE.get(plain, ()), *several) if text != plain))
