"""What the demo and the tests serve to themselves: a loopback web server, bad URLs and all."""
