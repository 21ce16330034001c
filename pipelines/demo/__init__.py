"""What the demo and the tests serve to themselves: a loopback web server with every kind of bad URL."""
