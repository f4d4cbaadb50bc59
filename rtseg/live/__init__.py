"""The live view: what a person at the window can do while a run goes on, and how it shows.

`keys.py` is the table of keys, and loads nothing; `controls.py` has an action for each, which needs
no window; `state.py` is what these replace; `effect.py` draws by it, `glass.py` writes over the
window, and `desk.py` puts it all together.
"""
