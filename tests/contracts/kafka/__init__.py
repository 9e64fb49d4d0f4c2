"""What every broker that Redline runs on must do, checked on each of them with both clients."""
