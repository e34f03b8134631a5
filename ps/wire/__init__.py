"""What goes over the wire: messages generated from proto/parameters.proto, and their framing."""
