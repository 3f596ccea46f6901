"""The HTML of a run's page: its template and its style. Jinja2 escapes all text that is put in."""

from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

_STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1c2330; --soft: #5b6577; --rule: #c9d0da; --tile: #f4f6f9; --link: #1f5fbf;
  --good: #1a7f4b; --bad: #b3541e;
  --c0: #1f5fbf; --c1: #d1661f; --c2: #2a8a4c; --c3: #b3304f;
  --c4: #7a4fc0; --c5: #8a6a2a; --c6: #1590a0; --c7: #6b7280;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #12161d; --ink: #e3e8f0; --soft: #9aa6b8; --rule: #3a4453; --tile: #1b212b; --link: #82b1ff;
    --good: #5fd39a; --bad: #f0a070;
    --c0: #6ea8ff; --c1: #ff9d5c; --c2: #63cf8b; --c3: #ff7a97;
    --c4: #b79bff; --c5: #d9b66a; --c6: #5fd0de; --c7: #aab2c0;
  }
}
* { box-sizing: border-box; }
html { font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
body {
  margin: 0 auto; padding: 2rem 1.25rem 3rem; max-width: 70rem;
  background: var(--paper); color: var(--ink);
}
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 {
  font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-bottom: .25rem;
  border-bottom: 1px solid var(--rule);
}
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
p { margin: .5rem 0; }
a { color: var(--link); }
nav { margin-top: 1rem; font-size: .9rem; }
nav a { margin-right: 1rem; white-space: nowrap; }
.soft, figcaption, .note { color: var(--soft); }
.note, figcaption { font-size: .875rem; }
.badge {
  display: inline-block; padding: .1rem .6rem; border: 1px solid; border-radius: 1rem;
  font-size: .85rem;
}
.good { color: var(--good); } .bad { color: var(--bad); }
.tiles {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(10.8rem, 1fr)); gap: .6rem;
  margin: 1rem 0; padding: 0;
}
.tiles div { background: var(--tile); border-radius: .5rem; padding: .55rem .8rem; }
.tiles dt { color: var(--soft); font-size: .8rem; overflow-wrap: anywhere; }
.tiles dd { margin: 0; font-size: 1.05rem; font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); gap: 1rem 1.5rem; }
.wide { min-width: 36rem; }
figure { margin: 0 0 .75rem; break-inside: avoid; }
figcaption { overflow-wrap: anywhere; }
svg, img { display: block; width: 100%; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
img { border: 1px solid var(--rule); border-radius: .25rem; background: #fff; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td {
  text-align: left; vertical-align: top; padding: .3rem .9rem .3rem 0;
  border-bottom: 1px solid var(--rule);
}
th { color: var(--soft); font-weight: 600; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
code, pre { font: .82rem/1.45 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
td code { overflow-wrap: anywhere; }
pre {
  background: var(--tile); border-radius: .5rem; padding: .75rem 1rem; overflow-x: auto;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
figure .scroll { break-inside: avoid; }
details { margin: .75rem 0; }
summary { cursor: pointer; color: var(--link); }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
@media print {
  :root { color-scheme: light; --paper: #fff; --ink: #000; --soft: #444; --rule: #bbb; --tile: #f2f2f2; }
  body { max-width: none; padding: 0; }
  nav { display: none; }
  .wide { min-width: 0; }
  h2 { break-after: avoid; }
  .charts { grid-template-columns: 1fr 1fr; }
  .tiles div, pre, tr { break-inside: avoid; }
}
"""

_PAGE = """\
{%- macro charts(list) -%}
<div class="charts">
{% for caption, svg in list %}
<figure>{{ svg }}<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
</div>
{%- endmacro -%}
{%- macro results_table(rows) -%}
<div class="scroll"><table>
<tr>
  <th>result</th><th class="n">last</th><th class="n">at iteration</th>
  <th class="n">times measured</th><th class="n">lowest</th><th class="n">highest</th>
</tr>
{% for row in rows %}
<tr>
  <td>{{ row.name }}</td><td class="n">{{ row.last }}</td><td class="n">{{ row.after }}</td>
  <td class="n">{{ row.times }}</td><td class="n">{{ row.lowest }}</td><td class="n">{{ row.highest }}</td>
</tr>
{% endfor %}
</table></div>
{%- endmacro -%}
{%- macro value(text) -%}
{% if text is none %}<span class="soft">absent</span>{% else %}<code>{{ text }}</code>{% endif %}
{%- endmacro -%}
{%- macro differences(rows, base) -%}
<div class="scroll"><table>
<tr><th>key</th><th>{{ base }}</th><th>this run</th></tr>
{% for row in rows %}
<tr>
  <td><code>{{ row.key }}</code></td><td>{{ value(row.base) }}</td><td>{{ value(row.run) }}</td>
</tr>
{% endfor %}
</table></div>
{%- endmacro -%}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ name }}: {{ kind }}</title>
<style>{{ style }}</style>
</head>
<body>
<header>
<h1>{{ name }}</h1>
<p>
{{ kind }}{% if size %}<span class="soft"> · {{ size }}</span>{% endif %}

<span class="badge {{ 'good' if finished else 'bad' }}">{{ status }}</span>
</p>
</header>
<dl class="tiles">
{% for label, value in facts %}
<div><dt>{{ label }}</dt><dd>{{ value }}</dd></div>
{% endfor %}
</dl>
{% for line in command %}
<pre>{{ line }}</pre>
{% endfor %}
{% for problem in problems %}
<p class="bad">{{ problem }}</p>
{% endfor %}
<nav>
<a href="#losses">Losses</a>
<a href="#samples">Samples</a>
<a href="#results">Results</a>
<a href="#transfer">Transfer</a>
<a href="#config">Config</a>
<a href="#scalars">Other values</a>
<a href="#environment">Environment</a>
</nav>

<section id="losses">
<h2>Losses</h2>
{% if losses %}
<figure class="scroll"><div class="wide">{{ losses[0][1] }}</div></figure>
{% if losses[1:] %}{{ charts(losses[1:]) }}{% endif %}
{% if thinned %}
<p class="note">Of curves with more than {{ max_points }} points the line is the mean of neighbouring points,
the shade their range.</p>
{% endif %}
{% else %}
<p class="note">Not recorded: the run has no metrics.json with losses.</p>
{% endif %}
</section>

<section id="samples">
<h2>Samples over time</h2>
{% for picture in pictures %}
<figure>
<div class="scroll"><img class="wide" alt="{{ picture.caption }}" src="{{ picture.uri }}"></div>
<figcaption>{{ picture.caption }}</figcaption>
</figure>
{% else %}
<p class="note">No pictures: the run keeps none with train.vis_period=0, or is no pre-training.</p>
{% endfor %}
</section>

<section id="results">
<h2>Results</h2>
{% if results %}
{% if evaluations %}{{ charts(evaluations) }}{% endif %}
{{ results_table(results) }}
{% else %}
<p class="note">Not recorded: the run evaluated nothing.</p>
{% endif %}
{% if classes %}
<details><summary>Results of single classes ({{ classes|length }})</summary>
{{ results_table(classes) }}</details>
{% endif %}
</section>

<section id="transfer">
<h2>Transfer</h2>
{% for table in transfers %}
<h3>{{ table.kind }}</h3>
<div class="scroll"><table>
<tr>
  <th>run</th><th>config</th><th>weights of this run</th><th class="n">iterations</th>
  {% for metric in table.metrics %}
  <th class="n">{{ metric }}</th>
  {% endfor %}
  <th>status</th>
</tr>
{% for row in table.rows %}
<tr>
  <td>{{ row.name }}</td><td>{{ row.config }}</td>
  <td{% if not row.is_of_run %} class="bad"{% endif %}>{{ row.init }}</td>
  <td class="n">{{ row.iterations }}</td>
  {% for value in row["values"] %}
  <td class="n">{{ value }}</td>
  {% endfor %}
  <td>{{ row.status }}</td>
</tr>
{% endfor %}
</table></div>
{% else %}
<p class="note">None: no run beside this one began with its weights, and none was given.</p>
{% endfor %}
</section>

<section id="config">
<h2>Config</h2>
{% if comparison.base %}
{% if comparison.changed %}
<p>What differs from <code>{{ comparison.base }}</code>:</p>
{{ differences(comparison.changed, "base") }}
{% else %}
<p>No value differs from <code>{{ comparison.base }}</code>.</p>
{% endif %}
{% if comparison.only_one %}
<details><summary>Keys that only one of them has ({{ comparison.only_one|length }})</summary>
<p class="note">Compared with the config as it is now: it may have changed since the run.</p>
{{ differences(comparison.only_one, "base") }}</details>
{% endif %}
{% else %}
<p class="note">Not compared with its base: {{ comparison.why }}.</p>
{% endif %}
{% if config is not none %}
<details><summary>The whole config.yaml</summary><pre>{{ config }}</pre></details>
<p class="note">Paths on this page are those that the run's own config has; others are shortened to their
last part.</p>
{% else %}
<p class="note">Not recorded: the run has no config.yaml that can be read.</p>
{% endif %}
</section>

<section id="scalars">
<h2>Other values</h2>
{% if scalars %}{{ charts(scalars) }}{% endif %}
{% if constant %}
<p class="note">The same throughout:
{% for name, value in constant %}
{{ name }} {{ value }}{{ "." if loop.last else "," }}
{% endfor %}
</p>
{% endif %}
{% if not scalars and not constant %}
<p class="note">Not recorded.</p>
{% endif %}
</section>

<section id="environment">
<h2>Environment</h2>
<div class="scroll"><table>
{% for label, value in environment %}
<tr><th>{{ label }}</th><td>{{ value }}</td></tr>
{% endfor %}
</table></div>
<h3>Starts</h3>
{% for start in starts %}
<p>{{ start.date }}: {{ start.what }}, {{ start.time }}; {{ start.outcome }}</p>
<pre>{{ start.command }}</pre>
{% else %}
<p class="note">Not recorded: the run has no log.txt.</p>
{% endfor %}
{% if warnings %}
<details><summary>Warnings of the log ({{ warnings|length }})</summary>
<ul>
{% for text, times in warnings %}
<li>{{ text }}{% if times > 1 %} <span class="soft">({{ times }} times)</span>{% endif %}</li>
{% endfor %}
</ul></details>
{% endif %}
</section>
<footer>Made by rmae-d2 report of rmae_d2 from the files of the run.</footer>
</body>
</html>
"""


def as_safe(svg: str) -> Markup:
    """Marks an SVG of :mod:`.charts`, which escapes its texts itself, as HTML."""
    return Markup(svg)


def render(content: dict[str, Any]) -> str:
    """Fills the template.

    Args:
        content: all names that it uses, as :mod:`.report` makes them; a missing one is an error.
    """
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    return environment.from_string(_PAGE).render(**content, style=Markup(_STYLE))
