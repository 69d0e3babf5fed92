"""What both frameworks share: the engine behind a component, passages, arguments, tools."""
