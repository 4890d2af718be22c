"""Pages for people: one layout, one stylesheet, plots as inline SVG; each page one file that needs no network."""
