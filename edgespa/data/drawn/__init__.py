"""Objects that were drawn on pictures, from the files that annotation tools write: COCO, Pascal VOC, YOLO."""
