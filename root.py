print("visited", n, len(q))
