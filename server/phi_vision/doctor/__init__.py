"""`phi-vision doctor`: what may keep a server from starting or answering, each point a check of its own."""
