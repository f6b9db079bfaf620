"""How the starter's training set is made: fetch pinned packages, keep concepts, caption them, pack them."""
