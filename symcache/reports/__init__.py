"""A run's report in the forms that people and programs read: text, HTML, Markdown, CSV, JUnit, JSON, a noisy log."""
