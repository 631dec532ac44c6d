"""How fast a server is and what it costs: `harness` measures one, `studies` answer single questions."""
