"""Fifty texts that attack whoever shows them; what a text could make a page run leaves a mark on the document.

The mark is an attribute `data-pwned-NN` of the top document's root, NN the text's place in HOSTILE.
"""

from __future__ import annotations

MARK = "data-pwned-"
EVIL = "https://evil.example"


def _numbered(texts: dict[str, str]) -> dict[str, str]:
    run = "top.document.documentElement.setAttribute(`{}{:02d}`,1)"
    return {what: text.replace("RUN", run.format(MARK, place)) for place, (what, text) in enumerate(texts.items(), 1)}


HOSTILE = _numbered(
    {
        # Elements that run.
        "script element": "<script>RUN</script>",
        "script in odd case, with a slash": "<ScRiPt/x>RUN</sCrIpT >",
        "image that fails": "<img src=x: onerror=RUN>",
        "drawing that loads": "<svg onload=RUN>",
        "drawing that moves": '<svg><animate onbegin="RUN" attributeName="x" dur="1s"/></svg>',
        "script in a drawing": '<svg><script href="data:text/javascript,RUN"/></svg>',
        "details that open": '<details open ontoggle="RUN">x</details>',
        "frame with a page of its own": '<iframe srcdoc="&lt;script&gt;RUN&lt;/script&gt;"></iframe>',
        "frame with a script as address": '<iframe src="javascript:RUN"></iframe>',
        "focus that is taken": '<input autofocus onfocus="RUN">',
        "object of a data address": '<object data="data:text/html,<script>RUN</script>"></object>',
        "refresh": f'<meta http-equiv="refresh" content="0;url={EVIL}"><base href="{EVIL}/">',
        "form": '<form action="javascript:RUN"><button>x</button></form>',
        "style sheet from elsewhere": f'<link rel="stylesheet" href="{EVIL}/x.css"><style>*{{display:none}}</style>',
        # Ways out of where the text stands.
        "end of the script": "</script><script>RUN</script>",
        "end of the style": "</style><script>RUN</script>",
        "end of the title": "</title></textarea></noscript><script>RUN</script>",
        "end of the table": "</td></tr></table><img src=x: onerror=RUN>",
        "end of the drawing": "</title></text></svg><img src=x: onerror=RUN>",
        "end of a comment": "--><script>RUN</script><!--",
        "end of a comment, the other way": "--!><img src=x: onerror=RUN>",
        "end of a CDATA section": "]]><script>RUN</script><![CDATA[",
        "end of an instruction": "?><img src=x: onerror=RUN><?xml",
        "out of a double-quoted attribute": '"><img src=x: onerror=RUN>',
        "out of a single-quoted attribute": "'><svg onload=RUN>",
        "another attribute, double-quoted": '" autofocus tabindex=1 onfocus="RUN" onmouseover="RUN" x="',
        "another attribute, single-quoted": "' onload='RUN' onclick='RUN' x='",
        "another attribute, not quoted": "x onmouseover=RUN onclick=RUN",
        "styles": f"red;background:url({EVIL}/x)}}*{{display:none}}",
        # Texts that another layer decodes or fills in.
        "entities": "&lt;script&gt;RUN&lt;/script&gt; &#60;img src=x: onerror=RUN&#62; &amp;amp;",
        "external entity": '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>&e;',
        "expression of a template": "{{7*7}}{{cycler.__init__.__globals__.os.popen('id')}}${7*7}<%= 7*7 %>#{7*7}",
        "statement of a template": "{% for x in range(9) %}pwned{% endfor %}{# gone #}",
        "mathematics": "$\\frac{1}{0}$ \\alpha",
        # Links and Markdown.
        "script as an address": "javascript:RUN",
        "script as an address in disguise": "\x01JaVa\tScRiPt:RUN",
        "data as an address": "data:text/html,<script>RUN</script>",
        "link and image": f"[x](javascript:RUN) ![x]({EVIL}/x.png) [y]: {EVIL} <javascript:RUN>",
        "bare addresses": f"{EVIL} www.evil.example x@evil.example ftp://evil.example",
        "other Markdown": "a|b\n\n# h\n- c\n> d\n```\n<b>e</b>\n```\n`f` **g** _h_ ~~i~~",
        # Spreadsheets.
        "formula": f'=HYPERLINK("{EVIL}","x")',
        "command": "+1|cmd|' /C calc'!A0",
        "formulas that begin otherwise": "-2+3",
        "old formula": "@SUM(1+1)",
        "formulas behind blanks": "\t=1+1\r=1+1\n=1+1",
        "formula in another cell": 'x",=1+1;=1+1',
        # Terminals, files, encodings.
        "terminal sequences": "\x1b]0;pwned\x07\x1b[2J\x1b[31mred\x9b1m\x08\x08",
        "path": "../../../../../tmp/pwned/..\\..\\CON\x00.svg",
        "direction, invisible and look-alikes": "\u202egnp.exe\u2066 pgd\u200b-20 \u0440gd-20 \ufeff\u2028＝1+1",
        "long, and not to be encoded": "x" * 5000 + "\udcff\ud83d",
    }
)
