"""The report: one self-contained HTML page about a run.

`run.write_report` writes it, `run.report_html` returns it. The rest is reusable: `page.render_page` puts sections into
the page shell, `charts` draws inline SVG in the house style, `blocks` makes tables, tiles and grids of figures.
"""
