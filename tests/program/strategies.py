"""What hypothesis draws templates from."""

from __future__ import annotations

from hypothesis import strategies as st

from parrot_mq.program import Part, Placeholder, Template, Text, parse_template

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,63}", fullmatch=True)
braced_texts = st.text(st.one_of(st.sampled_from("{}a \n\t"), st.characters(exclude_categories=["Cs"])))
"""Any text, rich in braces."""


def join_texts(parts: list[Part]) -> tuple[Part, ...]:
    """The same content with neighbouring texts joined and empty ones left out, as parsing gives it."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, Text) and joined and isinstance(joined[-1], Text):
            joined[-1] = Text(joined[-1].text + part.text)
        elif part != Text(""):
            joined.append(part)
    return tuple(joined)


template_parts = st.lists(st.one_of(st.builds(Text, braced_texts), st.builds(Placeholder, names))).map(join_texts)


@st.composite
def _planned_template(draw: st.DrawFn) -> tuple[Template, set[str], list[str]]:
    """A template that can be planned, with its inputs, and its outputs in order."""
    inputs = draw(st.sets(names, max_size=3))
    outputs = draw(st.lists(names.filter(lambda name: name not in inputs), min_size=1, max_size=4, unique=True))
    content = st.one_of(
        st.builds(Text, braced_texts), *([st.sampled_from(sorted(inputs)).map(Placeholder)] * bool(inputs))
    )
    parts: list[Part] = [Placeholder(name) for name in draw(st.permutations(sorted(inputs)))]
    for output in outputs:
        parts += [*draw(st.lists(content, max_size=4)), Text("between"), Placeholder(output)]
    parts += draw(st.lists(content, max_size=3))
    text = Template(join_texts(parts)).text
    return parse_template(text), inputs, outputs


planned_templates = _planned_template()
