"""Picture files by rows: what can be read and written without holding all of a picture, and Pillow for the rest."""
