"""Pages as people meet them: in a real browser, by keyboard and screen reader."""
