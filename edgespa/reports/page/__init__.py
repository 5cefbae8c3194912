"""One self-contained page that shows what edgespa made and measured."""
