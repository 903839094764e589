"""How fast is the engine, next to others that serve the same model on the same CPU?"""
