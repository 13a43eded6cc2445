"""One file and one function a verb, composing rooms."""
