"""How records move and what is done to them; every part runs in a test without a broker."""
