"""How a chart is drawn: in a page (Plotly), on paper (SVG by matplotlib), in a terminal (plotext); the look they share."""
