"""Pictures and pages for people: where the bits of a picture lie, and an HTML page that shows what was lost."""
